package zookeeper

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/time/rate"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/internal/backend"
)

// Defaults of Options. The roots are Dubbo's.
const (
	DefaultRoot           = "dubbo"
	DefaultServicesRoot   = "services"
	DefaultSessionTimeout = 15 * time.Second
)

// Options of a Registry.
type Options struct {
	Servers        []string // host:port of each member of the ensemble
	Root           string   // of interfaces, mapping and metadata; default "dubbo"
	ServicesRoot   string   // of application instances; default "services"
	User, Password string   // digest authentication; then only this user can touch our nodes
	TLS            backend.TLS
	SessionTimeout time.Duration // default 15 s; the server holds it to 2 to 20 of its ticks
	HostID         string        // owner mark of what we write; not empty

	Session  registry.Store        // nil: a restart begins a new session
	Writes   *rate.Limiter         // budget of writes; nil: none
	Metadata registry.MetadataFunc // for instances with storage-type local; nil: their providers stay unknown
	Log      *slog.Logger          // nil: nothing is logged
}

// form is that of addresses.
var form = backend.Form{Name: "ZooKeeper", Scheme: "zookeeper", Port: 2181, Most: 65535, Params: []string{"root", "servicesRoot", "group", "sessionTimeout", "tls"}}

// ParseURL reads a registry address, see backend.Address. The path is the root.
// Parameters: root, servicesRoot, sessionTimeout ("15s"), tls ("true", or the path of
// a file with the authorities to trust) and group, which as in Dubbo is both roots
// unless they are given. Errors never contain the password.
func ParseURL(s string) (Options, error) {
	a, err := form.Parse(s)
	if err != nil {
		return Options{}, err
	}
	bad := func(err error) (Options, error) { return Options{}, fmt.Errorf("bad ZooKeeper address: %w", err) }
	group := a.Params["group"]
	o := Options{Servers: a.Servers, User: a.User, Password: a.Password,
		Root: cmp.Or(a.Params["root"], a.Path, group), ServicesRoot: cmp.Or(a.Params["servicesRoot"], group)}
	if o.TLS, err = backend.ParseTLS(a.Params["tls"]); err != nil {
		return bad(err)
	}
	if timeout := a.Params["sessionTimeout"]; timeout != "" {
		if o.SessionTimeout, err = time.ParseDuration(timeout); err != nil {
			return bad(fmt.Errorf("sessionTimeout: %w", err))
		}
	}
	return o.complete()
}

// complete fills defaults and checks everything that can be checked without the
// caller's parts.
func (o Options) complete() (Options, error) {
	if o.Root = strings.Trim(o.Root, "/"); o.Root == "" {
		o.Root = DefaultRoot
	}
	if o.ServicesRoot = strings.Trim(o.ServicesRoot, "/"); o.ServicesRoot == "" {
		o.ServicesRoot = DefaultServicesRoot
	}
	for _, root := range []string{o.Root, o.ServicesRoot} {
		for name := range strings.SplitSeq(root, "/") {
			if err := checkName(name); err != nil {
				return Options{}, fmt.Errorf("bad root %q: %w", root, err)
			}
		}
	}
	if o.SessionTimeout == 0 {
		o.SessionTimeout = DefaultSessionTimeout
	}
	// The protocol has it as a positive number of milliseconds in 32 bits.
	if o.SessionTimeout < time.Millisecond || o.SessionTimeout > 24*time.Hour {
		return Options{}, fmt.Errorf("bad session time-out %v: want 1ms to 24h", o.SessionTimeout)
	}
	if len(o.Servers) == 0 {
		return Options{}, errors.New("no ZooKeeper servers")
	}
	return o, nil
}

// checkName errs for what cannot be one part of a path. Source:
// org.apache.zookeeper.common.PathUtils#validatePath.
func checkName(name string) error {
	if name == "" || name == "." || name == ".." || strings.Contains(name, "/") || !utf8.ValidString(name) {
		return fmt.Errorf("%q cannot name a node", name)
	}
	for _, c := range name {
		if c <= 0x1f || c >= 0x7f && c <= 0x9f || c >= 0xd800 && c <= 0xf8ff || c >= 0xfff0 {
			return fmt.Errorf("%q cannot name a node", name)
		}
	}
	return nil
}
