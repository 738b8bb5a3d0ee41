package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"testing"

	"github.com/meshferry/meshferry/demo/e2e/javapeer"
)

// Applications of Java Dubbo that know nothing of agents reach a thin provider
// where the registry says it is: at its agent's 20882. Nobody but the agent has
// connected to the provider's own port, which is as open as the agent's.
func TestJavaConsumers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	inbound, provider := w.lanAddress(), w.lanAddress()
	a := w.agent("a", withFlags("--address", inbound.host, "--inbound", inbound.String()))
	p := w.app("provider", nil, []string{"provider", "--registry", a.mesh(), "--name", "go", "--ip", provider.host, "--port", strconv.Itoa(provider.port)})
	a.published(1)

	answered := 0
	for _, c := range []struct {
		what string
		javapeer.Options
	}{
		{"3.3, both levels, application first", javapeer.Options{Line: javapeer.V33}},
		{"3.3, application level only", javapeer.Options{Line: javapeer.V33, Properties: map[string]string{"dubbo.application.service-discovery.migration": "FORCE_APPLICATION"}}},
		{"2.7, interface level", javapeer.Options{Line: javapeer.V27}},
	} {
		t.Run(c.what, func(t *testing.T) {
			c.Registry = w.zk.URL()
			java := javapeer.Start(t, c.Options)
			entries, err := java.Call(t.Context(), javapeer.Call{N: 20})
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				if !e.OK || e.Answer != "hello world, this is go" {
					t.Fatalf("%+v", e)
				}
			}
			answered += len(entries)
			wantCalls(t, answered, p, hop{a, "inbound", service})
			if by := dialled(t, inbound.String()); by[java.PID()] == 0 || len(by) != 1 {
				t.Errorf("connections to 20882 by process: %v, want those of %d alone", by, java.PID())
			}
			onlyDialledBy(t, provider.String(), a.process)
		})
	}
}

// A thin consumer reaches providers of Java Dubbo 3.3 that know nothing of agents:
// one with the default registration, which is at both levels and still one
// provider, and one at the application level alone, whose services only its own
// MetadataService names.
func TestJavaProvider(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	inbound := w.lanAddress()
	b := w.agent("b", withFlags("--address", inbound.host, "--inbound", inbound.String()))
	for what, parameters := range map[string]string{"both levels": "", "application level only": "?register-mode=instance"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			group := map[bool]string{true: "both", false: "instance"}[parameters == ""]
			java := javapeer.Start(t, javapeer.Options{
				Line: javapeer.V33, Registry: w.zk.URL() + parameters, Application: "java-" + group, Port: w.lanAddress().port, Name: "java", Group: group,
			})
			key := group + "/" + service
			c := w.consumer(options{agent: b, group: group})
			// Java 3 names the application of a service in the background, after it
			// has registered.
			eventually(t, "the consumer to find the provider", func() error {
				if e := c.invoke("sayHello", "world"); !e.OK {
					return errors.New(e.Error)
				}
				return nil
			})
			if l := c.ledger(19, "/call?n=19&method=sayHello"); len(l.failed()) > 0 || l[0].Answer != "hello world, this is java" {
				t.Fatal(l)
			}
			eventually(t, "the counters", func() error {
				s, err := java.Stats(t.Context())
				if n := b.calls("outbound", key); err != nil || s.Calls["sayHello"] != 20 || n != 20 {
					return fmt.Errorf("the provider counted %+v (%v), the agent %d calls, want 20", s.Calls, err, n)
				}
				return nil
			})
			used := b.used(key)
			if len(used) != 1 {
				t.Fatalf("the agent would call %v, want one endpoint", used)
			}
			onlyDialledBy(t, used[0], b.process)
		})
	}
}

// used are the addresses that calls of a service would go to.
func (a *agent) used(serviceKey string) (addresses []string) {
	a.t.Helper()
	var answer struct {
		Endpoints []struct {
			Address string
			Used    bool
		}
	}
	a.get("/v1/endpoints?service="+serviceKey, &answer)
	for _, e := range answer.Endpoints {
		if e.Used {
			addresses = append(addresses, e.Address)
		}
	}
	return addresses
}

// address is one of this machine that is not loopback, if there is such a one: Java
// puts it in the place of any 127.* that it is to register or to dial.
type address struct {
	host string
	port int
}

func (a address) String() string { return net.JoinHostPort(a.host, strconv.Itoa(a.port)) }

// lanAddress gives one with a port that is free on all of this machine's.
func (w *world) lanAddress() address {
	w.t.Helper()
	a := address{host: "127.0.0.1"}
	known, err := net.InterfaceAddrs()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, k := range known {
		if n, ok := k.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && n.IP.To4() != nil {
			a.host = n.IP.String()
			break
		}
	}
	for range 100 {
		// Below the range of outgoing connections: it is used only seconds later.
		a.port = 21000 + rand.IntN(11000)
		if l, err := net.Listen("tcp", ":"+strconv.Itoa(a.port)); err == nil {
			l.Close()
			return a
		}
	}
	w.t.Fatal("no free port in 21000-31999")
	return a
}
