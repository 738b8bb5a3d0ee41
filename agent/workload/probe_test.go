package workload

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

const at = "127.0.0.1:20880"

// provider is a real listener that can hang and be closed with all it accepted.
type provider struct {
	net.Listener
	port   int
	hung   atomic.Bool
	conns  chan net.Conn
	ending chan struct{}
}

func listen(t *testing.T, port int, handle func(*provider, net.Conn)) *provider {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{Listener: l, port: l.Addr().(*net.TCPAddr).Port, conns: make(chan net.Conn, 1000), ending: make(chan struct{})}
	go func() {
		defer close(p.ending)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.conns <- c
			go handle(p, c)
		}
	}()
	t.Cleanup(p.kill)
	return p
}

// kill closes everything, as the kernel does for a killed process.
func (p *provider) kill() {
	p.Close()
	<-p.ending
	for {
		select {
		case c := <-p.conns:
			c.Close()
		default:
			return
		}
	}
}

func dubboServer(p *provider, c net.Conn) {
	answerHeartbeats(c, func() bool { return !p.hung.Load() })
}

func silentServer(_ *provider, c net.Conn) {
	io.Copy(io.Discard, c)
	c.Close()
}

var quick = ProbeSettings{Interval: 50 * time.Millisecond, Timeout: 30 * time.Millisecond}

func TestRealProviders(t *testing.T) {
	t.Run("killed and started again", func(t *testing.T) {
		s, _ := start(t, Options{})
		p := listen(t, 0, dubboServer)
		publish(t, s, Publication{URL: providerURL(t, p.port, "")})
		v := await(t, s, "live", live)
		if got := v.Publications[0].Address; got != p.Addr().String() {
			t.Errorf("address %s, want %s", got, p.Addr())
		}
		begun := time.Now()
		p.kill()
		await(t, s, "withdrawn", because(ReasonPortClosed))
		t.Logf("withdrawn %v after the kill", time.Since(begun).Round(time.Millisecond))
		listen(t, p.port, dubboServer)
		await(t, s, "live again", live)
	})
	t.Run("hung and awake", func(t *testing.T) {
		s, _ := start(t, Options{Probe: quick})
		p := listen(t, 0, dubboServer)
		publish(t, s, Publication{URL: providerURL(t, p.port, "")})
		await(t, s, "live", live)
		p.hung.Store(true)
		await(t, s, "withdrawn", because(ReasonNoAnswer))
		p.hung.Store(false)
		await(t, s, "live again", live)
	})
	t.Run("refuses heartbeats", func(t *testing.T) {
		s, _ := start(t, Options{Probe: quick})
		p := listen(t, 0, silentServer)
		publish(t, s, Publication{URL: providerURL(t, p.port, "")})
		await(t, s, "live by TCP", live)
		p.kill()
		await(t, s, "withdrawn", because(ReasonPortClosed))
	})
	t.Run("speaks something else and talks first", func(t *testing.T) {
		s, _ := start(t, Options{Probe: quick})
		p := listen(t, 0, func(p *provider, c net.Conn) {
			c.Write(bytes.Repeat([]byte("220 ready\r\n"), 100))
			silentServer(p, c)
		})
		publish(t, s, Publication{URL: providerURL(t, p.port, "")})
		await(t, s, "live by TCP", live)
	})
	t.Run("tri", func(t *testing.T) {
		s, _ := start(t, Options{})
		p := listen(t, 0, silentServer)
		u := providerURL(t, p.port, "")
		u.Protocol = "tri"
		publish(t, s, Publication{URL: u})
		await(t, s, "live", live)
		p.kill()
		await(t, s, "withdrawn", because(ReasonPortClosed))
	})
	t.Run("opens late", func(t *testing.T) {
		s, _ := start(t, Options{})
		l := listen(t, 0, dubboServer)
		l.kill()
		publish(t, s, Publication{URL: providerURL(t, l.port, "")})
		await(t, s, "closed", because(ReasonPortClosed))
		listen(t, l.port, dubboServer)
		await(t, s, "live", live)
	})
}

// TestKilledProcess kills and stops a real process: this test binary itself, as a
// provider.
func TestKilledProcess(t *testing.T) {
	if os.Getenv("WORKLOAD_TEST_PROVIDER") != "" {
		p := listen(t, 0, dubboServer)
		os.Stdout.WriteString(p.Addr().String() + "\n")
		io.Copy(io.Discard, os.Stdin) // until the parent is gone
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledProcess$")
	cmd.Env = append(os.Environ(), "WORKLOAD_TEST_PROVIDER=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		stdin.Close()
		cmd.Wait()
	}()
	line := make([]byte, 64)
	n, err := stdout.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	addr, err := net.ResolveTCPAddr("tcp", string(bytes.TrimSpace(line[:n])))
	if err != nil {
		t.Fatal(err)
	}

	s, _ := start(t, Options{Probe: quick})
	publish(t, s, Publication{URL: providerURL(t, addr.Port, "")})
	await(t, s, "live", live)
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	await(t, s, "hung", because(ReasonNoAnswer))
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	await(t, s, "awake", live)
	begun := time.Now()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	await(t, s, "dead", because(ReasonPortClosed))
	t.Logf("withdrawn %v after SIGKILL", time.Since(begun).Round(time.Millisecond))
}

func TestProbeTiming(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHost()
		s, _ := start(t, Options{Dial: h.dial})
		h.set(at, beats)
		publish(t, s, Publication{URL: providerURL(t, 20880, "")})
		synctest.Wait()
		if !live(s.View().Load()) {
			t.Fatal("not live without a pause")
		}
		begun := time.Now()
		h.set(at, shut)
		await(t, s, "dead", because(ReasonPortClosed))
		if took := time.Since(begun); took > 200*time.Millisecond {
			t.Errorf("dead after %v", took)
		}
		begun = time.Now()
		h.set(at, beats)
		await(t, s, "back", live)
		if took := time.Since(begun); took < time.Second || took > 2*time.Second {
			t.Errorf("back after %v, want two answers a second apart", took)
		}
		begun = time.Now()
		h.set(at, mute)
		await(t, s, "hung", because(ReasonNoAnswer))
		if took := time.Since(begun); took < 2*time.Second || took > 4300*time.Millisecond {
			t.Errorf("hung after %v, want three missed heartbeats", took)
		}
	})
}

func TestProbeSettingsChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHost()
		s, _ := start(t, Options{Dial: h.dial})
		h.set(at, beats)
		publish(t, s, Publication{URL: providerURL(t, 20880, "")})
		await(t, s, "live", live)
		s.SetProbe(ProbeSettings{Interval: 10 * time.Second, Fall: 1})
		time.Sleep(time.Second) // the probe that was planned before
		begun := time.Now()
		h.set(at, mute)
		awaitFor(t, s, time.Minute, "hung", because(ReasonNoAnswer))
		if took := time.Since(begun); took > 15*time.Second {
			t.Errorf("hung after %v, want one missed heartbeat", took)
		}
		begun = time.Now()
		h.set(at, beats)
		awaitFor(t, s, time.Minute, "back", live)
		if took := time.Since(begun); took < 10*time.Second || took > 20*time.Second {
			t.Errorf("back after %v, want two answers 10 s apart", took)
		}
	})
}

func TestOpensLateIsSeenSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHost()
		s, _ := start(t, Options{Dial: h.dial})
		publish(t, s, Publication{URL: providerURL(t, 20880, "")})
		time.Sleep(2 * time.Second)
		h.set(at, beats)
		begun := time.Now()
		await(t, s, "live", live)
		if took := time.Since(begun); took > eagerPause {
			t.Errorf("live after %v", took)
		}
		if n := h.dialled(at); n < 15 || n > 25 {
			t.Errorf("%d dials in 2 s, want one per %v", n, eagerPause)
		}
	})
}

// TestServerThatCloses: a server that closes each connection lives, and is not
// probed in a circle.
func TestServerThatCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHost()
		h.set(at, slams)
		s, _ := start(t, Options{Dial: h.dial})
		publish(t, s, Publication{URL: providerURL(t, 20880, "")})
		time.Sleep(10 * time.Second)
		if !live(s.View().Load()) {
			t.Error("not live")
		}
		if n := h.dialled(at); n > 25 {
			t.Errorf("%d dials in 10 s", n)
		}
	})
}

// TestSuspect: whoever asks for probes gets them, but not without bound.
func TestSuspect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHost()
		h.set(at, mute) // one dial for each probe
		s, _ := start(t, Options{Dial: h.dial})
		u := providerURL(t, 20880, "")
		u.Protocol = "tri"
		publish(t, s, Publication{URL: u})
		synctest.Wait()
		before := h.dialled(at)
		for range 1000 {
			s.Suspect(at)
			time.Sleep(time.Millisecond)
		}
		if n := h.dialled(at) - before; n < 30 || n > 51 {
			t.Errorf("%d dials in 1 s of suspicion, want one per %v at most", n, minGap)
		}
		s.Suspect("127.0.0.1:1")
	})
}

// TestOneConnection: two publications at one address share one connection, which
// is kept for as long as it serves.
func TestOneConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHost()
		h.set(at, beats)
		s, _ := start(t, Options{Dial: h.dial})
		publish(t, s, Publication{URL: providerURL(t, 20880, "")})
		publish(t, s, Publication{URL: providerURL(t, 20880, "&group=g")})
		time.Sleep(time.Minute)
		if n := h.dialled(at); n != 1 {
			t.Errorf("%d dials in a minute, want 1", n)
		}
		if _, _, _, err := s.Unpublish(t.Context(), Match{Port: 20880}, Nobody); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		h.mu.Lock()
		defer h.mu.Unlock()
		if len(h.conns) != 0 {
			t.Error("a connection outlives the last publication")
		}
	})
}

func TestReadonly(t *testing.T) {
	readonly := []byte{0xda, 0xbb, 0xa2, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 2, 1, 'R'}
	for name, tell := range map[string]func(*testing.T, *fakeHost, *Store){
		"told by the proxy":        func(_ *testing.T, _ *fakeHost, s *Store) { s.Readonly(at) },
		"on the prober's own line": func(t *testing.T, h *fakeHost, _ *Store) { h.say(t, at, readonly) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newFakeHost()
				h.set(at, beats)
				s, _ := start(t, Options{Dial: h.dial})
				publish(t, s, Publication{URL: providerURL(t, 20880, "")})
				await(t, s, "live", live)
				tell(t, h, s)
				await(t, s, "withdrawn", because(ReasonReadonly))
				time.Sleep(10 * time.Second)
				if !because(ReasonReadonly)(s.View().Load()) {
					t.Fatalf("not readonly although its process lives: %+v", s.View().Load())
				}
				h.cut(at) // the process goes, and another is there at once
				synctest.Wait()
				if live(s.View().Load()) {
					t.Fatal("live on the first answer")
				}
				await(t, s, "live again", live)
			})
		})
	}
}

func TestJudge(t *testing.T) {
	for err, want := range map[error]outcome{
		nil:                       accepted,
		syscall.ECONNREFUSED:      refused,
		syscall.EMFILE:            noVerdict,
		syscall.ENOBUFS:           noVerdict,
		os.ErrDeadlineExceeded:    missed,
		syscall.EHOSTUNREACH:      missed,
		errors.New("who knows"):   missed,
		syscall.ECONNRESET:        missed,
		net.ErrClosed:             missed,
		syscall.ENETUNREACH:       missed,
		syscall.EADDRNOTAVAIL:     missed,
		syscall.Errno(0x7fffffff): missed,
	} {
		if got := judge(err); got != want {
			t.Errorf("%v: %v, want %v", err, got, want)
		}
	}
}

// FuzzFrames: whatever a local port sends, the reader ends with the connection
// and takes no more memory than one frame.
func FuzzFrames(f *testing.F) {
	f.Add(heartbeatFrame(1))
	f.Add([]byte{0xda, 0xbb, 0x22, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 'N', 'N'})
	f.Add([]byte{0xda, 0xbb, 0xa2, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 1, 'R'})
	f.Add([]byte{0xda, 0xbb, 0xa2, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		near, far := net.Pipe()
		k := keep(near, true)
		far.SetDeadline(time.Now().Add(5 * time.Second))
		far.Write(b)
		far.Close()
		select {
		case <-k.end:
		case <-time.After(5 * time.Second):
			t.Fatal("the reader outlives its connection")
		}
	})
}
