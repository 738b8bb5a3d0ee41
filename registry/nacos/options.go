package nacos

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/internal/backend"
)

// DefaultGroup is the Nacos group of services that name none.
const DefaultGroup = "DEFAULT_GROUP"

// grpcOffset is from the HTTP port to that of gRPC. Source:
// com.alibaba.nacos.core.remote.grpc.GrpcSdkServer.
const grpcOffset = 1000

// Options of a Registry.
type Options struct {
	Servers        []string    // host:port of each server's HTTP port; gRPC is at +1000
	Namespace      string      // id; empty: the public one
	Group          string      // of services; default DEFAULT_GROUP
	User, Password string      // empty: no login
	ContextPath    string      // of the servers' HTTP side; default "/nacos"
	TLS            backend.TLS // of gRPC and of the login
	HostID         string      // owner mark of what we write; not empty

	Writes   *rate.Limiter         // budget of writes; nil: none
	Store    registry.Store        // keeps what this agent wrote of metadata; nil: a restart forgets it, and it stays in Nacos
	Metadata registry.MetadataFunc // for instances with storage-type local; nil: their providers stay unknown
	Log      *slog.Logger          // nil: nothing is logged

	look time.Duration // between two looks for services that are new; 0: lookEvery
}

// form is that of addresses.
var form = backend.Form{Name: "Nacos", Scheme: "nacos", Port: 8848, Most: 65535 - grpcOffset, Params: []string{"namespace", "group", "contextPath", "tls"}}

// ParseURL reads a registry address, see backend.Address. Parameters: namespace (its
// id), group, contextPath of the servers, and tls ("true", or the path of a file with
// the authorities to trust). Errors never contain the password.
func ParseURL(s string) (Options, error) {
	a, err := form.Parse(s)
	if err != nil {
		return Options{}, err
	}
	o := Options{Servers: a.Servers, User: a.User, Password: a.Password, Namespace: a.Params["namespace"], Group: a.Params["group"], ContextPath: a.Params["contextPath"]}
	if a.Path != "" {
		return Options{}, errors.New("bad Nacos address: it has a path; a namespace is given as ?namespace=…, a context path as ?contextPath=…")
	}
	if o.TLS, err = backend.ParseTLS(a.Params["tls"]); err != nil {
		return Options{}, fmt.Errorf("bad Nacos address: %w", err)
	}
	return o.complete()
}

// word is what Nacos takes as a group or the id of a namespace.
var word = regexp.MustCompile(`^[A-Za-z0-9_.:-]{1,128}$`)

// complete fills defaults and checks everything that can be checked without the
// caller's parts.
func (o Options) complete() (Options, error) {
	if o.Namespace == "public" {
		o.Namespace = ""
	}
	o.ContextPath = strings.TrimRight("/"+strings.Trim(cmp.Or(o.ContextPath, "nacos"), "/"), "/")
	if strings.ContainsAny(o.ContextPath, "?#% ") {
		return Options{}, fmt.Errorf("bad context path %q", o.ContextPath)
	}
	if o.Group == "" {
		o.Group = DefaultGroup
	}
	for what, value := range map[string]string{"namespace": o.Namespace, "group": o.Group} {
		if value != "" && !word.MatchString(value) {
			return Options{}, fmt.Errorf("bad %s %q: want letters, digits and any of _.:-", what, value)
		}
	}
	if len(o.Servers) == 0 {
		return Options{}, errors.New("no Nacos servers")
	}
	if o.look == 0 {
		o.look = lookEvery
	}
	return o, nil
}
