package main

import (
	"context"
	"net"
	"strings"

	"dubbo.apache.org/dubbo-go/v3/common/extension"
	"dubbo.apache.org/dubbo-go/v3/filter"
	"dubbo.apache.org/dubbo-go/v3/protocol/base"
	"dubbo.apache.org/dubbo-go/v3/protocol/result"
)

// hopFilter notes what dubbo-go calls, after registry and balancing: there is no
// other way to ask it.
const hopFilter = "demo-hop"

func init() { extension.SetFilter(hopFilter, func() filter.Filter { return hopNoter{} }) }

type hopNoter struct{}

type hopKey struct{}

// noting has the address that is called with ctx written to the place. With
// retries it is that of the last try.
func noting(ctx context.Context, to *string) context.Context {
	return context.WithValue(ctx, hopKey{}, to)
}

func (hopNoter) Invoke(ctx context.Context, invoker base.Invoker, call base.Invocation) result.Result {
	if to, ok := ctx.Value(hopKey{}).(*string); ok {
		*to = invoker.GetURL().Location
	}
	return invoker.Invoke(ctx, call)
}

func (hopNoter) OnResponse(_ context.Context, r result.Result, _ base.Invoker, _ base.Invocation) result.Result {
	return r
}

// hops says which way a call went, from what both ends saw: the address that the
// consumer called, and the host from which the provider says that it was called.
// On a provider's own host nobody but the agent calls it.
func hops(to, answer string) string {
	if to == "" || answer == "" {
		return ""
	}
	_, provider, _ := strings.Cut(answer, "this is ")
	provider, from, told := strings.Cut(provider, ", called from ")
	host, _, _ := net.SplitHostPort(to)
	way, inbound := "consumer → "+to, from == thisHost
	switch here := net.ParseIP(host).IsLoopback(); {
	case here && inbound:
		way += " (its agent) → the provider's agent"
	case here && told:
		way += " (its agent)"
	case inbound:
		way += " (the provider's agent)"
	}
	return way + " → " + provider
}
