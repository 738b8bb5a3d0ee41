package meshferry

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const maxReply = 8 << 20 // bytes; an answer lists every direct provider

var (
	errAway = errors.New("agent away")                   // no answer, or one that says "later"
	errGone = errors.New("boot id or subscription gone") // 410: subscribe again
)

// link makes the calls. It has no state of its own.
type link struct {
	base    string // "http://127.0.0.1:20883"
	token   string
	timeout time.Duration
	http    *http.Client
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
}

// newLink takes "host:port", "http://host:port", "unix:/path" or "/path".
func newLink(address, token string, timeout time.Duration) (*link, error) {
	var d net.Dialer
	l := &link{token: token, timeout: timeout, dial: d.DialContext}
	network, to := "tcp", strings.TrimPrefix(address, "http://")
	if path := strings.TrimPrefix(address, "unix:"); strings.HasPrefix(path, "/") {
		network, to = "unix", filepath.Clean(path)
		l.base = "http://localhost"
	} else {
		if _, _, err := net.SplitHostPort(to); err != nil {
			return nil, fmt.Errorf("agent address %q: want host:port, unix:/path or /path: %w", address, err)
		}
		l.base = "http://" + to
	}
	l.http = &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			// Calls are rare. A connection for each leaves nothing behind, and
			// an agent that was restarted is noticed at once.
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return l.dial(ctx, network, to)
			},
		},
	}
	return l, nil
}

func (l *link) request(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var r io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, l.base+path, r)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if l.token != "" {
		req.Header.Set("Authorization", "Bearer "+l.token)
	}
	resp, err := l.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errAway, err)
	}
	return resp, nil
}

// call makes one call within the time-out plus extra and decodes a 2xx reply
// into out. A reply that asks to come later counts as away.
func (l *link) call(ctx context.Context, extra time.Duration, method, path string, body, out any) error {
	ctx, cancel := context.WithTimeout(ctx, l.timeout+extra)
	defer cancel()
	resp, err := l.request(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return fmt.Errorf("%w: %w", errAway, err)
	}
	switch s := resp.StatusCode; {
	case s == http.StatusNotModified:
		return nil
	case s >= 200 && s < 300:
		if err := json.Unmarshal(text, out); err != nil {
			return fmt.Errorf("%w: reply of %s is not understood: %w", errAway, path, err)
		}
		return nil
	default:
		return refusal(s, text)
	}
}

// refused tells a refusal, which a retry does not change, from all other errors.
func refused(err error) bool {
	var r *Refusal
	return errors.As(err, &r) && !errors.Is(err, errAway) && !errors.Is(err, errGone)
}

// refusal turns a status and an error body into an error.
func refusal(status int, text []byte) error {
	var reply struct{ Error Refusal }
	if json.Unmarshal(text, &reply) != nil || reply.Error.Code == "" {
		reply.Error = Refusal{Code: http.StatusText(status), Message: string(text[:min(len(text), 200)])}
	}
	reply.Error.Status = status
	switch {
	case status == http.StatusGone:
		return fmt.Errorf("%w: %w", errGone, &reply.Error)
	case status == http.StatusRequestTimeout, status == http.StatusTooManyRequests, status >= 500:
		return fmt.Errorf("%w: %w", errAway, &reply.Error)
	}
	return &reply.Error
}

// requester is what the agent must know of who asks, beside the question.
type requester struct {
	Workload string `json:"workload"`
	Client   string `json:"client"`
	Wait     string `json:"wait,omitempty"`
}

func (l *link) publish(ctx context.Context, from requester, p Publication) (r Result, err error) {
	return l.change(ctx, "/v1/publish", from, p)
}

func (l *link) unpublish(ctx context.Context, from requester, p Publication) (r Result, err error) {
	return l.change(ctx, "/v1/unpublish", from, p)
}

func (l *link) change(ctx context.Context, path string, from requester, p Publication) (r Result, err error) {
	switch {
	case p.Wait < 0:
		from.Wait, p.Wait = "0s", 0
	case p.Wait > 0:
		from.Wait = p.Wait.String()
	}
	err = l.call(ctx, p.Wait, http.MethodPost, path, struct {
		requester
		Publication
	}{from, p}, &r)
	return r, err
}

type consumerRequest struct {
	requester
	Consumer
}

func (l *link) subscribe(ctx context.Context, from requester, s Consumer) (a Answer, err error) {
	err = l.call(ctx, 0, http.MethodPost, "/v1/subscribe", consumerRequest{from, s}, &a)
	return a, err
}

func (l *link) unsubscribe(ctx context.Context, from requester, s Consumer) error {
	return l.call(ctx, 0, http.MethodPost, "/v1/unsubscribe", consumerRequest{from, s}, &struct{}{})
}

// watch waits until the answer differs from a. The zero Answer: it did not.
func (l *link) watch(ctx context.Context, a Answer, wait time.Duration) (next Answer, err error) {
	query := url.Values{
		"subscription": {a.Subscription}, "agent": {a.Agent},
		"revision": {strconv.FormatUint(a.Revision, 10)}, "wait": {wait.String()},
	}
	err = l.call(ctx, wait, http.MethodGet, "/v1/watch?"+query.Encode(), nil, &next)
	return next, err
}

// lease holds the lease of a workload. It calls heard for every line, with the
// agent's boot id, and returns when the stream ended or was silent for too long.
func (l *link) lease(ctx context.Context, workload string, ttl time.Duration, heard func(boot string)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(l.timeout, func() { cancel(errors.New("no answer in time")) })
	defer silent.Stop()
	resp, err := l.request(ctx, http.MethodPost, "/v1/lease", map[string]string{"workload": workload, "ttl": ttl.String()})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxReply))
		return refusal(resp.StatusCode, text)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 4<<10)
	for {
		silent.Reset(ttl) // a line comes every 5 s, three in a TTL
		if !lines.Scan() {
			break
		}
		var line struct{ Agent string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Agent != "" {
			heard(line.Agent)
		}
	}
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("%w: lease: %w", errAway, cause)
	}
	return fmt.Errorf("%w: lease ended: %w", errAway, cmpErr(lines.Err(), io.EOF))
}

// healthy says whether the control API answers at all, whatever it answers.
func (l *link) healthy(ctx context.Context, timeout time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	resp, err := l.request(ctx, http.MethodGet, "/healthz", nil)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return true
}

// heartbeat is a Dubbo 2 heartbeat: request, two-way, event, hessian2, body null.
// A process that hangs still accepts connections, so a connection proves nothing.
// Source: org.apache.dubbo.remoting.exchange.codec.ExchangeCodec.
var heartbeat = [...]byte{0xda, 0xbb, 0xe2, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 'N'}

// answers says whether a Dubbo listener answers a heartbeat.
func (l *link) answers(ctx context.Context, address string, timeout time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := l.dial(ctx, "tcp", address)
	if err != nil {
		return false
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	if _, err := conn.Write(heartbeat[:]); err != nil {
		return false
	}
	var magic [2]byte
	_, err = io.ReadFull(conn, magic[:])
	return err == nil && magic == [2]byte{0xda, 0xbb}
}

func joinHostPort(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

func unique(s []string) []string {
	slices.Sort(s)
	return slices.Compact(s)
}

func cmpErr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}
