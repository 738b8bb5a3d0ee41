package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"dubbo.apache.org/dubbo-go/v3/client"
	"dubbo.apache.org/dubbo-go/v3/common/constant"
)

// caller makes one call of a reference.
type caller struct{ conn *client.Connection }

// call answers with what came back as text.
func (c caller) call(ctx context.Context, method, arg string) (string, error) {
	var in any = arg
	switch method {
	case "Slow", "slow":
		ms, err := strconv.ParseInt(arg, 10, 64)
		if err != nil {
			return "", fmt.Errorf("method Slow wants milliseconds: %w", err)
		}
		in = ms
	case "Echo", "echo":
		size, err := strconv.Atoi(arg)
		if err != nil || size < 0 || size > 16<<20 {
			return "", fmt.Errorf("method Echo wants a number of bytes, not %q", arg)
		}
		var answer []byte
		if err := c.conn.CallUnary(ctx, []any{make([]byte, size)}, &answer, method); err != nil {
			return "", err
		}
		return fmt.Sprintf("%d bytes", len(answer)), nil
	}
	var answer string
	err := c.conn.CallUnary(ctx, []any{in}, &answer, method)
	return answer, err
}

// references are made once for each group and version.
type references struct {
	// immutable
	client   *client.Client
	settings settings

	mu    sync.Mutex
	known map[[2]string]caller // guarded by mu
}

func (r *references) of(group, version string) (caller, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := [2]string{group, version}
	if c, ok := r.known[key]; ok {
		return c, nil
	}
	s := r.settings
	o := []client.ReferenceOption{
		client.WithProtocolDubbo(), client.WithSerialization("hessian2"), client.WithRequestTimeout(s.timeout),
		client.WithGroup(group), client.WithVersion(version), client.WithParams(s.params), client.WithFilter(hopFilter),
	}
	if s.retries >= 0 {
		o = append(o, client.WithRetries(s.retries))
	}
	if s.url != "" {
		o = append(o, client.WithURL(s.url))
	}
	conn, err := r.client.Dial(s.iface, o...)
	if err != nil {
		return caller{}, err
	}
	r.known[key] = caller{conn}
	return caller{conn}, nil
}

func consume(ctx context.Context, s settings, out io.Writer) error {
	ins, err := instance(s)
	if err != nil {
		return err
	}
	cli, err := ins.NewClient(client.WithClientNoCheck())
	if err != nil {
		return err
	}
	refs := &references{client: cli, settings: s, known: map[[2]string]caller{}}
	c, err := refs.of(s.group, s.version)
	if err != nil {
		return err
	}
	if s.calls > 0 {
		failed := series(ctx, c, s.calls, "SayHello", "world", json.NewEncoder(out))
		if err := leave(); err != nil {
			return err
		}
		if failed > 0 {
			return fmt.Errorf("%d of %d calls failed", failed, s.calls)
		}
		return nil
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /call", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(cmp.Or(r.FormValue("n"), "1"))
		if err != nil || n < 1 || n > 1e6 {
			http.Error(w, "n: want 1..1000000", http.StatusBadRequest)
			return
		}
		c, err := refs.of(cmp.Or(r.FormValue("group"), s.group), cmp.Or(r.FormValue("version"), s.version))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		ctx, err := attaching(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		series(ctx, c, n, cmp.Or(r.FormValue("method"), "SayHello"), cmp.Or(r.FormValue("arg"), "world"), json.NewEncoder(w))
	})
	mux.HandleFunc("GET /load", func(w http.ResponseWriter, r *http.Request) {
		rate, err := strconv.Atoi(cmp.Or(r.FormValue("rate"), "100"))
		length, err2 := time.ParseDuration(cmp.Or(r.FormValue("for"), "5s"))
		if err != nil || err2 != nil || rate < 1 || rate > 10000 || length <= 0 || length > time.Hour {
			http.Error(w, "want rate=1..10000 calls a second and for=a duration", http.StatusBadRequest)
			return
		}
		method, arg := cmp.Or(r.FormValue("method"), "SayHello"), cmp.Or(r.FormValue("arg"), "world")
		ctx, err := attaching(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		load(ctx, rate, length, json.NewEncoder(w), func(ctx context.Context) (string, error) { return c.call(ctx, method, arg) })
	})
	var calling sync.WaitGroup
	if s.every > 0 {
		calling.Go(func() { steadily(ctx, c, s.every, out) })
	}
	err = control(ctx, s, out, mux)
	calling.Wait()
	if err != nil {
		return err
	}
	return leave()
}

// attaching is the context of calls with the attachments that a request names,
// attachment=key=value.
func attaching(r *http.Request) (context.Context, error) {
	pairs := r.URL.Query()["attachment"]
	if len(pairs) == 0 {
		return r.Context(), nil
	}
	all := map[string]any{}
	for _, pair := range pairs {
		k, v, ok := strings.Cut(pair, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("attachment: want key=value, not %q", pair)
		}
		all[k] = v
	}
	return context.WithValue(r.Context(), constant.AttachmentKey, all), nil
}

// steadily makes a call now and then until ctx ends, for a person to watch.
func steadily(ctx context.Context, c caller, every time.Duration, w io.Writer) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var to string
		at := time.Now()
		answer, err := c.call(noting(ctx, &to), "sayHello", "world") // Java has no other
		if err != nil {
			fmt.Fprintf(w, "call %d failed, %.1f ms: %v\n", n, ms(time.Since(at)), err)
			continue
		}
		fmt.Fprintf(w, "call %d: %s, %.1f ms\n", n, hops(to, answer), ms(time.Since(at)))
	}
}

// series makes calls one after the other and writes a line for each.
func series(ctx context.Context, c caller, n int, method, arg string, w *json.Encoder) (failed int) {
	begin := time.Now()
	for i := range n {
		if ctx.Err() != nil {
			return failed + n - i
		}
		at := time.Now()
		var to string
		answer, err := c.call(noting(ctx, &to), method, arg)
		e := entry(i+1, begin, at, answer, err)
		e.To, e.Hops = to, hops(to, answer)
		if w.Encode(e); !e.OK {
			failed++
		}
	}
	return failed
}
