package dubbogo

import (
	"context"
	"errors"
	"fmt"

	"dubbo.apache.org/dubbo-go/v3/common"
	"dubbo.apache.org/dubbo-go/v3/common/constant"
	"dubbo.apache.org/dubbo-go/v3/filter"
	"dubbo.apache.org/dubbo-go/v3/protocol/base"
	"dubbo.apache.org/dubbo-go/v3/protocol/result"
)

// filterName is the name of notSent in dubbo-go.
const filterName = "meshferry"

// notSent makes a call again that was given to a closed connection. dubbo-go has
// several connections to an address and picks one at random; a closed one stays
// among them until it has been opened again, which takes seconds after a restart of
// the agent. Nothing was sent, so even a call that must not be repeated may be made
// on another one. Source: dubbo-getty's session.WritePkg and session.stop, dubbo-go's
// gettyRPCClient.selectSession.
type notSent struct{}

// picks bounds the attempts: with one open connection of five, one call in a
// thousand finds it in none of so many.
const picks = 32

// Invoke is part of dubbo-go's Filter.
func (notSent) Invoke(ctx context.Context, next base.Invoker, call base.Invocation) result.Result {
	var r result.Result
	for range picks {
		if r = next.Invoke(ctx, call); r.Error() == nil || !closed(r.Error()) || ctx.Err() != nil {
			break
		}
	}
	return r
}

// OnResponse is part of dubbo-go's Filter.
func (notSent) OnResponse(_ context.Context, r result.Result, _ base.Invoker, _ base.Invocation) result.Result {
	return r
}

var _ filter.Filter = notSent{}

// closed tells dubbo-getty's ErrSessionClosed by its text and kind: its module is not
// among those that dubbo-go's users name, and what a provider answers is of another
// kind.
func closed(err error) bool {
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		err = inner
	}
	return err.Error() == "session Already Closed" && fmt.Sprintf("%T", err) == "*errors.fundamental"
}

// withFilter puts notSent behind the filters that the reference has.
func withFilter(u, consumer *common.URL) {
	filters := consumer.GetParam(constant.ReferenceFilterKey, "")
	if filters != "" {
		filters += ","
	}
	u.SetParam(constant.ReferenceFilterKey, filters+filterName)
}
