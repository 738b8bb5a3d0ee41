package local

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshferry/meshferry/registry"
)

// child is what the test binary does as another process: it publishes each line
// of its input as its whole truth, says "held" or why not, and lives until its
// input ends or it is killed.
func child(dir string) {
	r, err := New(Options{Dir: dir, HostID: fmt.Sprintf("child-%d", os.Getpid())})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	<-r.Lost() // connected
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var d registry.Desired
		for text := range strings.FieldsSeq(in.Text()) {
			u, err := registry.ParseURL(text)
			if err != nil {
				fmt.Println(err)
			}
			d.Providers = append(d.Providers, u)
		}
		report, err := r.Apply(ctx, d)
		answer := fmt.Sprint("held ", err)
		for _, item := range report {
			if item.State != registry.Held {
				answer = fmt.Sprint(item)
			}
		}
		fmt.Println(answer)
	}
	cancel()
	<-ended
}

type process struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func startChild(t *testing.T, dir string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(os.Args[0])}
	p.cmd.Env = append(os.Environ(), "MESHFERRY_LOCAL_TEST_CHILD="+dir)
	p.cmd.Stderr = os.Stderr
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewScanner(out)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.signal(syscall.SIGKILL)
		p.cmd.Wait()
	})
	return p
}

func (p *process) signal(s syscall.Signal) { p.cmd.Process.Signal(s) }

func (p *process) publish(urls ...string) {
	p.t.Helper()
	fmt.Fprintln(p.in, strings.Join(urls, " "))
	if !p.out.Scan() || !strings.HasPrefix(p.out.Text(), "held") {
		p.t.Fatalf("child: %q, %v", p.out.Text(), p.out.Err())
	}
}

// reader is a running Registry of this process.
func reader(t *testing.T, dir string) (*Registry, <-chan registry.Endpoints) {
	t.Helper()
	r, err := New(Options{Dir: dir, HostID: "reader"})
	if err != nil {
		t.Fatal(err)
	}
	r.sweep = time.Hour // events alone must tell
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	ch := make(chan registry.Endpoints)
	go func() { ended <- r.Run(ctx) }()
	go func() { ended <- r.Subscribe(ctx, "com.a.Foo", ch) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
	return r, ch
}

func await(t *testing.T, ch <-chan registry.Endpoints, want int) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		select {
		case e := <-ch:
			if len(e.Providers) == want {
				return
			}
		case <-deadline:
			t.Fatalf("never %d providers", want)
		}
	}
}

const foo = "dubbo://127.0.0.1:%d/com.a.Foo?interface=com.a.Foo&side=provider"

// TestKilledProcess kills owners without a word: the event of their death, and
// nothing else, must take their entries away.
func TestKilledProcess(t *testing.T) {
	dir := t.TempDir()
	_, ch := reader(t, dir)
	await(t, ch, 0)
	const rounds = 5
	var slowest time.Duration
	for i := range rounds {
		p := startChild(t, dir)
		p.publish(fmt.Sprintf(foo, 1000))
		await(t, ch, 1)
		p.publish(fmt.Sprintf(foo, 1000), fmt.Sprintf(foo, 2000+i)) // its file is another inode now
		await(t, ch, 2)
		begin := time.Now()
		p.signal(syscall.SIGKILL)
		await(t, ch, 0)
		slowest = max(slowest, time.Since(begin))
		if left := entries(t, dir); len(left) != 0 {
			t.Errorf("the file of the dead process is still there: %v", left)
		}
	}
	t.Logf("kill -9 to notification: at most %v in %d rounds", slowest, rounds)
}

// TestStoppedProcess: an owner that is stopped for a while is not dead.
func TestStoppedProcess(t *testing.T) {
	dir := t.TempDir()
	r, ch := reader(t, dir)
	p := startChild(t, dir)
	p.publish(fmt.Sprintf(foo, 1000))
	await(t, ch, 1)
	p.signal(syscall.SIGSTOP)
	if err := r.scan(); err != nil {
		t.Fatal(err)
	}
	if got := len(entries(t, dir)); got != 1 {
		t.Fatalf("%d entries, want that of the stopped process", got)
	}
	p.signal(syscall.SIGKILL)
	await(t, ch, 0)
}

// TestLeftovers starts on a directory whose owners died while nobody looked.
func TestLeftovers(t *testing.T) {
	dir := t.TempDir()
	p := startChild(t, dir)
	p.publish(fmt.Sprintf(foo, 1000))
	p.signal(syscall.SIGKILL)
	p.cmd.Wait()
	if got := len(entries(t, dir)); got != 1 {
		t.Fatalf("%d files, want the dead one's", got)
	}
	_, ch := reader(t, dir)
	await(t, ch, 0)
	if left := entries(t, dir); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestEndRemovesEntry: a process that ends in order leaves nothing.
func TestEndRemovesEntry(t *testing.T) {
	dir := t.TempDir()
	_, ch := reader(t, dir)
	p := startChild(t, dir)
	p.publish(fmt.Sprintf(foo, 1000))
	await(t, ch, 1)
	p.in.Close()
	await(t, ch, 0)
	if err := p.cmd.Wait(); err != nil {
		t.Error(err)
	}
	if left := entries(t, dir); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}
