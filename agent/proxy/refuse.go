package proxy

import (
	"github.com/meshferry/meshferry/agent/proxy/dubbo"
	"github.com/meshferry/meshferry/agent/route"
)

// refusal says why a call cannot be answered by a provider.
type refusal struct {
	reason      route.Failure
	text        string // what failed, for people
	notExecuted bool   // certain: nothing of it was written to the provider
	code        int    // of the RpcException; 0: by reason
	redial      bool   // the connection had been up: one more try at the same endpoint is worth it
}

// The two forms on 20882, which the outbound side of another agent knows.
const (
	notExecuted    = "meshferry: not-executed: "
	unknownOutcome = "meshferry: unknown-outcome: "
)

// rpcCode is the code of org.apache.dubbo.rpc.RpcException for a reason.
func rpcCode(r route.Failure) int {
	switch r {
	case route.NoRoute:
		return 4 // FORBIDDEN_EXCEPTION
	case route.NoEndpoint:
		return 6 // NO_INVOKER_AVAILABLE_AFTER_FILTER
	case route.Deadline:
		return 2 // TIMEOUT_EXCEPTION
	case route.Limit:
		return 7 // LIMIT_EXCEEDED_EXCEPTION
	default:
		return 1 // NETWORK_EXCEPTION
	}
}

// refuse answers a call in the form that its side needs (CONTRACT §6): on the
// outbound side an RpcException in the caller's serialization, which an SDK tries
// once; on the inbound side status 80, with which it goes to another provider. A
// oneway call gets nothing.
func (c *call) refuse(r refusal) {
	d := c.down
	c.leave()
	if c.copied {
		d.p.counters.mirrorsDropped.Add(1)
		return
	}
	if r.code == 0 {
		r.code = rpcCode(r.reason)
	}
	service := ""
	if c.cluster != nil {
		service = c.cluster.Service.Key() + ": "
		c.cluster.Stats.Fail(r.reason)
	} else {
		d.unrouted(r.reason)
	}
	if c.oneway {
		d.p.counters.oneway.Add(1)
		return
	}
	host := ""
	if d.p.o.Host != "" {
		host = " (agent on " + d.p.o.Host + ")"
	}
	if d.dir.outbound {
		text := "meshferry: " + service + r.text + host
		if frame, err := dubbo.AppendException(nil, c.serialization, c.id, r.code, text); err == nil {
			d.answer(c, frame)
			return
		}
		d.answer(c, dubbo.AppendError(nil, c.id, text))
		return
	}
	form := unknownOutcome
	if r.notExecuted || r.reason == route.NoRoute {
		form = notExecuted
	}
	d.answer(c, dubbo.AppendError(nil, c.id, form+service+r.text+host))
}

// unrouted counts a call for which no cluster was found.
func (d *downstream) unrouted(reason route.Failure) {
	if st := d.dir.table(d.p.o.Router.Snapshot()).Unrouted; st != nil {
		st.Request(1)
		st.Fail(reason)
	}
}
