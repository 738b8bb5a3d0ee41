package dubbogo

import (
	"context"
	"errors"
	"testing"

	"dubbo.apache.org/dubbo-go/v3/common"
	"dubbo.apache.org/dubbo-go/v3/protocol/base"
	"dubbo.apache.org/dubbo-go/v3/protocol/result"
	perrors "github.com/pkg/errors"
)

// connections answers calls with one error after the other, and the last for good.
type connections struct {
	base.Invoker
	errs  []error
	calls int
}

func (c *connections) Invoke(context.Context, base.Invocation) result.Result {
	err := c.errs[min(c.calls, len(c.errs)-1)]
	c.calls++
	return &result.RPCResult{Err: err}
}

func TestOnlyWhatWasNotSentIsMadeAgain(t *testing.T) {
	closed := perrors.WithStack(perrors.New("session Already Closed")) // dubbo-getty's ErrSessionClosed
	for name, c := range map[string]struct {
		errs  []error
		calls int
		ok    bool
	}{
		"answered":              {[]error{nil}, 1, true},
		"another connection":    {[]error{closed, closed, nil}, 3, true},
		"no connection is open": {[]error{closed}, picks, false},
		"a provider's words":    {[]error{errors.New("session Already Closed"), nil}, 1, false},
		"failed":                {[]error{errors.New("refused"), nil}, 1, false},
		"failed on another":     {[]error{closed, errors.New("refused"), nil}, 2, false},
	} {
		conns := &connections{errs: c.errs}
		r := notSent{}.Invoke(t.Context(), conns, nil)
		if conns.calls != c.calls || (r.Error() == nil) != c.ok {
			t.Errorf("%s: %d calls, %v", name, conns.calls, r.Error())
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	conns := &connections{errs: []error{closed}}
	notSent{}.Invoke(ctx, conns, nil)
	if conns.calls != 1 {
		t.Errorf("%d calls after the caller went", conns.calls)
	}
}

func TestFilterComesLast(t *testing.T) {
	for have, want := range map[string]string{"": "meshferry", "cshutdown,own": "cshutdown,own,meshferry"} {
		consumer := common.NewURLWithOptions(common.WithParamsValue("reference.filter", have))
		u, err := dubboURL("dubbo://127.0.0.1:20881/com.a.Foo?reference.filter=theirs", consumer)
		if err != nil || u.GetParam("reference.filter", "") != want {
			t.Errorf("%q: %v, %v", have, u, err)
		}
	}
}
