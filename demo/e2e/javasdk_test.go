package e2e

import (
	"archive/zip"
	"encoding/binary"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshferry/meshferry/demo/e2e/javapeer"
	"github.com/meshferry/meshferry/internal/install"
)

// What the two jars of the Java SDK promise: together under 100 kB, bytecode of Java
// 8, and the client needs nothing but the JDK.
func TestJavaJars(t *testing.T) {
	if testing.Short() {
		t.Skip("builds with Maven")
	}
	t.Parallel()
	dir, err := install.Project(t.Context(), "sdk-lite-java", "sdk-lite/java")
	if err != nil {
		t.Fatal(err)
	}
	jars, err := filepath.Glob(filepath.Join(dir, "meshferry-*", "*.jar"))
	if err != nil || len(jars) != 2 {
		t.Fatalf("%v, %v, want two jars", jars, err)
	}
	const most = 100_000
	size, classes := int64(0), 0
	for _, jar := range jars {
		info, err := os.Stat(jar)
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
		z, err := zip.OpenReader(jar)
		if err != nil {
			t.Fatal(err)
		}
		defer z.Close()
		for _, f := range z.File {
			if !strings.HasSuffix(f.Name, ".class") {
				continue
			}
			classes++
			if v := classVersion(t, f); v != 52 {
				t.Errorf("%s in %s has version %d of class files, want 52, that of Java 8", f.Name, filepath.Base(jar), v)
			}
		}
	}
	t.Logf("%d bytes, %d classes", size, classes)
	if size >= most || classes == 0 {
		t.Errorf("both jars have %d bytes and %d classes, want less than %d bytes", size, classes, most)
	}
	client := slices.IndexFunc(jars, func(jar string) bool { return strings.Contains(filepath.Base(jar), "client") })
	out, err := exec.CommandContext(t.Context(), "jdeps", "-summary", jars[client]).CombinedOutput()
	if want := filepath.Base(jars[client]) + " -> java.base\n"; err != nil || string(out) != want {
		t.Errorf("jdeps says %q (%v), want %q", out, err, want)
	}
}

// classVersion is the major version of a class file: bytes 6 and 7 (JVM
// specification, 4.1).
func classVersion(t *testing.T, f *zip.File) uint16 {
	t.Helper()
	r, err := f.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		t.Fatal(err)
	}
	return binary.BigEndian.Uint16(head[6:])
}

var startups = flag.Int("startups", 0, "TestJavaStart: how many starts of each kind")

// What the thin SDK costs at start-up: the time from the start of a process until a
// provider serves, or until a consumer has its first answer, with the registry
// zookeeper:// and with mesh://, alternately. It prints medians and judges nothing,
// since a machine has other things to do: make bench-java.
func TestJavaStart(t *testing.T) {
	if *startups == 0 {
		t.Skip("run by make bench-java")
	}
	w := newWorld(t)
	inbound := w.lanAddress()
	a := w.agent("a", withFlags("--address", inbound.host, "--inbound", inbound.String()))
	w.provider(options{agent: a, application: "shop", name: "go"})
	a.published(1)
	for _, role := range []string{"provider", "consumer"} {
		for _, line := range []javapeer.Line{javapeer.V27, javapeer.V32, javapeer.V33} {
			start := func(thin bool) time.Duration {
				o := javapeer.Options{Line: line, Thin: thin, Dir: t.TempDir(), Registry: w.zk.URL()}
				if thin {
					o.Registry = a.mesh()
				}
				if role == "provider" {
					o.Port, o.Group = w.lanAddress().port, "start"
				}
				begin := time.Now()
				p, err := javapeer.Run(t.Context(), o)
				if err != nil {
					t.Fatal(err)
				}
				defer p.Kill()
				if role == "consumer" {
					if e, err := p.Call(t.Context(), javapeer.Call{}); err != nil || !e[0].OK {
						t.Fatalf("%+v, %v", e, err)
					}
				}
				return time.Since(begin)
			}
			start(true) // once, so that the system has read what both need
			var direct, mesh, more []time.Duration
			for range *startups {
				d, m := start(false), start(true)
				direct, mesh, more = append(direct, d), append(mesh, m), append(more, m-d)
			}
			t.Logf("%s, Java %-6s  zookeeper:// %4d ms, mesh:// %4d ms; paired: %+5d ms (medians of %d)", role, line, median(direct), median(mesh), median(more), *startups)
		}
	}
}

// median is in milliseconds.
func median(d []time.Duration) int64 {
	slices.Sort(d)
	return d[len(d)/2].Milliseconds()
}
