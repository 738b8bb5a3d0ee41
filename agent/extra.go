package agent

import (
	"fmt"
	"net"

	"github.com/meshferry/meshferry/agent/api"
	"github.com/meshferry/meshferry/agent/config"
	"github.com/meshferry/meshferry/agent/proxy"
)

// extra is an inbound listener that belongs to one application: what comes in there
// goes to that application and to no other, and its publications are advertised
// there (CONTRACT §4.1).
type extra struct {
	net.Listener
	application string
}

func (x extra) port() int { return x.Addr().(*net.TCPAddr).Port }

func (l *listeners) openExtra(cfg config.Config) error {
	for _, x := range cfg.Extra {
		listener, err := listen("inbound (of "+x.Application+")", "inbound.extra", cfg.ExtraAddress(x))
		if err != nil {
			return err
		}
		l.extra = append(l.extra, extra{listener, x.Application})
	}
	return nil
}

// extraPorts are the inbound ports by application, of those that have one of their
// own.
func (l listeners) extraPorts() map[string]int {
	ports := map[string]int{}
	for _, x := range l.extra {
		ports[x.application] = x.port()
	}
	return ports
}

// withOwnPort lists the applications that have one.
func (l listeners) withOwnPort() (applications []string) {
	for _, x := range l.extra {
		applications = append(applications, x.application)
	}
	return applications
}

func (l listeners) proxied() (list []proxy.Extra) {
	for _, x := range l.extra {
		list = append(list, proxy.Extra{Listener: x.Listener, Application: x.application})
	}
	return list
}

// advertisedExtra is what other hosts dial for these applications.
func (l listeners) advertisedExtra(host string) (list []api.Extra) {
	for _, x := range l.extra {
		list = append(list, api.Extra{Application: x.application, Address: net.JoinHostPort(host, fmt.Sprint(x.port()))})
	}
	return list
}
