package zookeeper

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/time/rate"

	"github.com/meshferry/meshferry/registry"
)

// Defaults of Options. The roots are Dubbo's.
const (
	DefaultRoot           = "dubbo"
	DefaultServicesRoot   = "services"
	DefaultSessionTimeout = 15 * time.Second
)

// Store keeps a small document between two runs of a process: the session's id
// and password among others, so it must be readable by its owner only. Load
// returns nil before the first Save. Save must be atomic.
type Store interface {
	Load() ([]byte, error)
	Save([]byte) error
}

// Options of a Registry.
type Options struct {
	Servers        []string      // host:port of each member of the ensemble
	Root           string        // of interfaces, mapping and metadata; default "dubbo"
	ServicesRoot   string        // of application instances; default "services"
	User, Password string        // digest authentication; then only this user can touch our nodes
	SessionTimeout time.Duration // default 15 s; the server holds it to 2 to 20 of its ticks
	HostID         string        // owner mark of what we write; not empty

	Session  Store                 // nil: a restart begins a new session
	Writes   *rate.Limiter         // budget of writes; nil: none
	Metadata registry.MetadataFunc // for instances with storage-type local; nil: their providers stay unknown
	Log      *slog.Logger          // nil: nothing is logged
}

// ParseURL reads a registry address:
//
//	zookeeper://[user:password@]host[:2181][,host[:2181]…][/root][?key=value&…]
//
// User and password are percent-decoded. Keys: root, servicesRoot,
// sessionTimeout ("15s"), backup (more servers, as in Dubbo's addresses) and
// group, which as in Dubbo is both roots unless they are given. Errors never
// contain the password.
func ParseURL(s string) (Options, error) {
	bad := func(format string, args ...any) (Options, error) {
		return Options{}, fmt.Errorf("bad ZooKeeper address: "+format, args...)
	}
	rest, ok := strings.CutPrefix(s, "zookeeper://")
	if !ok {
		return bad("it does not begin with zookeeper://")
	}
	rest, query, _ := strings.Cut(rest, "?")
	authority, root, _ := strings.Cut(rest, "/")
	o := Options{Root: root}
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		user, password, found := strings.Cut(authority[:i], ":")
		authority = authority[i+1:]
		var err, err2 error
		o.User, err = url.PathUnescape(user)
		o.Password, err2 = url.PathUnescape(password)
		if err != nil || err2 != nil || !found || user == "" {
			return bad("want user:password, percent-encoded, before the '@'")
		}
	}
	params, err := url.ParseQuery(query)
	if err != nil {
		return bad("parameters: %v", err)
	}
	servers := strings.Split(authority, ",")
	for key, values := range params {
		switch value := values[0]; key {
		case "root":
			o.Root = value
		case "servicesRoot":
			o.ServicesRoot = value
		case "group": // after the others
		case "backup":
			servers = append(servers, strings.Split(value, ",")...)
		case "sessionTimeout":
			if o.SessionTimeout, err = time.ParseDuration(value); err != nil {
				return bad("sessionTimeout: %v", err)
			}
		default:
			return bad("unknown parameter %q; known are root, servicesRoot, group, backup, sessionTimeout", key)
		}
	}
	if group := params.Get("group"); group != "" {
		if o.Root == "" {
			o.Root = group
		}
		if o.ServicesRoot == "" {
			o.ServicesRoot = group
		}
	}
	for _, server := range servers {
		server, err := withPort(server)
		if err != nil {
			return bad("%v", err)
		}
		o.Servers = append(o.Servers, server)
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

func withPort(server string) (string, error) {
	host, port, err := net.SplitHostPort(server)
	if err != nil {
		host, port = strings.Trim(server, "[]"), "2181"
		if strings.Contains(host, ":") && !strings.HasPrefix(server, "[") {
			return "", fmt.Errorf("server %q: want host:port", server)
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" || strings.ContainsAny(host, "[]@/ ") {
		return "", fmt.Errorf("server %q: want host:port", server)
	}
	return net.JoinHostPort(host, port), nil
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
