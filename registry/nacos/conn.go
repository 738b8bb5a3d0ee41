package nacos

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	api "github.com/nacos-group/nacos-sdk-go/v2/api/grpc"
	"github.com/nacos-group/nacos-sdk-go/v2/common/constant"
	"github.com/nacos-group/nacos-sdk-go/v2/common/remote/rpc/rpc_request"
	"github.com/nacos-group/nacos-sdk-go/v2/common/remote/rpc/rpc_response"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/meshferry/meshferry/registry"
)

// Times and sizes of a connection.
const (
	requestWithin = 3 * time.Second
	checkEvery    = 5 * time.Second // Nacos' own clients ask as often
	maxMessage    = 64 << 20        // one answer; a service of 60 000 instances
)

// Codes of Nacos. Source: com.alibaba.nacos.api.exception.NacosException.
const (
	codeNotFound     = 300 // of configurations
	codeBeingWritten = 400 // of configurations: ConfigQueryResponse.CONFIG_QUERY_CONFLICT
	codeUnregistered = 301
	codeDenied       = 403
)

// refusal is an answer that says no.
type refusal struct {
	request string
	code    int
	message string
}

func (e *refusal) Error() string {
	if e.code == codeDenied {
		return "Nacos denies " + e.request + ": " + e.message
	}
	return fmt.Sprintf("Nacos refuses %s: %d %s", e.request, e.code, e.message)
}

func denied(err error) bool { return refused(err, codeDenied) }

func refused(err error, code int) bool {
	var r *refusal
	return errors.As(err, &r) && r.code == code
}

// conn is one connection to one server. It is never repaired: when anything is
// wrong with it, it ends, and the next one is made.
type conn struct {
	// Immutable after dial.
	server string
	began  time.Time
	token  atomic.Pointer[string] // of the login; empty: none
	cc     *grpc.ClientConn
	client api.RequestClient
	stream api.BiRequestStream_RequestBiStreamClient
	ended  context.Context // Done when the connection has ended; its cause is why
	end    context.CancelCauseFunc
	closed func()                     // ends the stream
	renew  func(context.Context) bool // logs in anew; true: the token is another. Nil: nobody can

	sending sync.Mutex // of the stream
}

// dial makes a connection that can be used. The caller calls serve, and close at
// the end.
func dial(ctx context.Context, server, namespace, token string, secure *tls.Config) (_ *conn, err error) {
	host, port, err := net.SplitHostPort(server)
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return nil, err
	}
	transport := insecure.NewCredentials()
	if secure != nil {
		transport = credentials.NewTLS(secure)
	}
	// "passthrough": names are resolved by the dialer, each time.
	cc, err := grpc.NewClient("passthrough:///"+net.JoinHostPort(host, strconv.Itoa(n+grpcOffset)),
		grpc.WithTransportCredentials(transport), grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		return nil, err
	}
	c := &conn{server: server, began: time.Now(), cc: cc, client: api.NewRequestClient(cc)}
	c.token.Store(&token)
	c.ended, c.end = context.WithCancelCause(context.Background())
	streaming, closed := context.WithCancel(context.Background())
	c.closed = closed
	defer func() {
		if err != nil {
			c.close(err)
		}
	}()
	limit, cancel := context.WithTimeout(ctx, requestWithin)
	defer cancel()
	check := rpc_request.NewServerCheckRequest()
	if err := c.call(limit, check, &rpc_response.ServerCheckResponse{Response: &rpc_response.Response{}}); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(limit, closed) // a server that hangs does not hold us
	c.stream, err = api.NewBiRequestStreamClient(cc).RequestBiStream(streaming)
	if err != nil {
		return nil, err
	}
	setup := rpc_request.NewConnectionSetupRequest()
	setup.ClientVersion = constant.CLIENT_VERSION
	setup.Tenant = namespace
	setup.Labels = map[string]string{constant.LABEL_SOURCE: constant.LABEL_SOURCE_SDK, constant.LABEL_MODULE: constant.LABEL_MODULE_NAMING}
	if err := c.send(setup.GetRequestType(), setup); err != nil {
		return nil, err
	}
	// The setup has no answer: until it is done, the server says "unregistered".
	for {
		err := c.call(limit, rpc_request.NewHealthCheckRequest(), &rpc_response.HealthCheckResponse{Response: &rpc_response.Response{}})
		if err == nil {
			break
		}
		if !refused(err, codeUnregistered) {
			return nil, err
		}
		select {
		case <-limit.Done():
			return nil, fmt.Errorf("the server does not take the connection: %w", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	if !stop() {
		return nil, limit.Err()
	}
	return c, nil
}

func (c *conn) close(why error) {
	c.end(why)
	c.closed()
	c.cc.Close()
}

// serve reads what the server sends until the connection ends, and says why it
// did. push is called for each message, in order.
func (c *conn) serve(ctx context.Context, push func(kind string, body []byte)) error {
	defer context.AfterFunc(ctx, func() { c.end(ctx.Err()) })()
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(c.check)
	running.Go(func() {
		for {
			p, err := c.stream.Recv()
			if err != nil {
				c.end(fmt.Errorf("the connection to %s was lost: %w", c.server, err))
				return
			}
			c.received(p, push)
		}
	})
	<-c.ended.Done()
	c.close(nil)
	return context.Cause(c.ended)
}

// check asks the server from time to time whether it still knows us.
func (c *conn) check() {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		select {
		case <-c.ended.Done():
			return
		case <-tick.C:
		}
		// A failure ends the connection.
		_ = c.ask(c.ended, rpc_request.NewHealthCheckRequest(), &rpc_response.HealthCheckResponse{Response: &rpc_response.Response{}})
	}
}

// received acknowledges a message and hands it on.
func (c *conn) received(p *api.Payload, push func(kind string, body []byte)) {
	kind := p.GetMetadata().GetType()
	body := p.GetBody().GetValue()
	push(kind, body)
	var r struct {
		RequestID string `json:"requestId"`
	}
	_ = json.Unmarshal(body, &r) // without an id there is nothing to answer
	answers := map[string]string{
		constant.NOTIFY_SUBSCRIBE_REQUEST_NAME:     "NotifySubscriberResponse",
		constant.CONFIG_CHANGE_NOTIFY_REQUEST_NAME: "ConfigChangeNotifyResponse",
		"ClientDetectionRequest":                   "ClientDetectionResponse",
		"ConnectResetRequest":                      "ConnectResetResponse",
	}
	if answer, ok := answers[kind]; ok && r.RequestID != "" {
		if err := c.send(answer, map[string]any{"resultCode": 200, "success": true, "requestId": r.RequestID}); err != nil {
			c.end(fmt.Errorf("the connection to %s was lost: %w", c.server, err))
		}
	}
	if kind == "ConnectResetRequest" {
		c.end(fmt.Errorf("%s asked to be left", c.server))
	}
}

func (c *conn) send(kind string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	c.sending.Lock()
	defer c.sending.Unlock()
	return c.stream.Send(payload(kind, nil, body))
}

func payload(kind string, headers map[string]string, body []byte) *api.Payload {
	return &api.Payload{Metadata: &api.Metadata{Type: kind, Headers: headers}, Body: &anypb.Any{Value: body}}
}

// ask sends a request and reads its answer. An error that says nothing of the
// request but of the connection ends it, and is ErrAway. A server that is slow with
// one request and answers others is not away: with the connection our instances
// would go.
func (c *conn) ask(ctx context.Context, q rpc_request.IRequest, a rpc_response.IResponse) error {
	limit, cancel := context.WithTimeout(ctx, requestWithin)
	defer cancel()
	defer context.AfterFunc(c.ended, cancel)()
	err := c.call(limit, q, a)
	var r *refusal
	switch {
	case err == nil:
		return nil
	case errors.As(err, &r) && r.code != codeUnregistered:
		if r.code == codeDenied && c.renew != nil && c.renew(limit) {
			return c.call(limit, q, a)
		}
		return err
	case ctx.Err() != nil:
		return err
	}
	if why := context.Cause(c.ended); why != nil {
		err = why
	} else if (limit.Err() != nil || status.Code(err) == codes.DeadlineExceeded) && c.answers() { // the server keeps the deadline too
		return fmt.Errorf("%s answers others, but not %s within %v", c.server, q.GetRequestType(), requestWithin)
	}
	c.end(fmt.Errorf("%s does not answer: %w", c.server, err))
	return fmt.Errorf("%w: %w", registry.ErrAway, err)
}

// answers asks what costs the server nothing.
func (c *conn) answers() bool {
	limit, cancel := context.WithTimeout(c.ended, requestWithin)
	defer cancel()
	return c.call(limit, rpc_request.NewHealthCheckRequest(), &rpc_response.HealthCheckResponse{Response: &rpc_response.Response{}}) == nil
}

func (c *conn) call(ctx context.Context, q rpc_request.IRequest, a rpc_response.IResponse) error {
	headers := map[string]string{"charset": "utf-8"}
	if token := *c.token.Load(); token != "" {
		headers[constant.KEY_ACCESS_TOKEN] = token
	}
	p, err := c.client.Request(ctx, payload(q.GetRequestType(), headers, []byte(q.GetBody(q))))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(p.GetBody().GetValue(), a); err != nil {
		return fmt.Errorf("answer to %s: %w", q.GetRequestType(), err)
	}
	// Java calls an answer good by its result code; "success" is not always there.
	if a.GetResultCode() != constant.RESPONSE_CODE_SUCCESS {
		return &refusal{request: q.GetRequestType(), code: a.GetErrorCode(), message: a.GetMessage()}
	}
	return nil
}
