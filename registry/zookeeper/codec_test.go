package zookeeper

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshferry/meshferry/registry"
)

func TestEncode(t *testing.T) {
	for in, want := range map[string]string{ // as java.net.URLEncoder
		"dubbo://h:1/a.B_c-D?x=1&y=a,b": "dubbo%3A%2F%2Fh%3A1%2Fa.B_c-D%3Fx%3D1%26y%3Da%2Cb",
		"*~":                            "*%7E",
		"a b+c":                         "a+b%2Bc",
		"$ü%":                           "%24%C3%BC%25",
		"'()!":                          "%27%28%29%21",
	} {
		if got := encode(in); got != want {
			t.Errorf("encode(%q) = %q, want %q", in, got, want)
		}
	}
}

// TestRealLeaves encodes what real peers wrote, decoded, to the same bytes.
func TestRealLeaves(t *testing.T) {
	files, err := filepath.Glob("testdata/vectors/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	n := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			path, ok := strings.CutPrefix(strings.TrimSpace(line), "NODE ")
			if !ok || !isLeaf(path) {
				continue
			}
			name := path[strings.LastIndexByte(path, '/')+1:]
			u, err := decode(name)
			if err != nil {
				t.Errorf("%s: %v", file, err)
			} else if got := encode(u.String()); got != name {
				t.Errorf("%s: encoded\n%s\nwas\n%s", file, got, name)
			}
			n++
		}
	}
	if n < 20 {
		t.Errorf("only %d leaves", n)
	}
}

func FuzzLeaf(f *testing.F) {
	f.Add("dubbo%3A%2F%2Fh%3A1%2Fa%3Fx%3D1")
	f.Add("%zz")
	f.Fuzz(func(t *testing.T, name string) {
		u, err := decode(name)
		if err != nil {
			return
		}
		again, err := decode(encode(u.String()))
		if err != nil || again != u {
			t.Errorf("%q: %+v, then %+v, %v", name, u, again, err)
		}
	})
}

// TestInstanceAsJava reads what Java 3.3 wrote and writes the same bytes, but for
// our mark and the time of registration.
func TestInstanceAsJava(t *testing.T) {
	text, err := os.ReadFile("testdata/vectors/java33-remote-metadata-provider-only.txt")
	if err != nil {
		t.Fatal(err)
	}
	_, java, _ := strings.Cut(string(text), `data={"name":`)
	java, _, _ = strings.Cut(`{"name":`+java, "\n")
	i, err := parseInstance("java-provider", []byte(java))
	if err != nil {
		t.Fatal(err)
	}
	ours, err := marshalInstance(i, "host-a")
	if err != nil {
		t.Fatal(err)
	}
	if owner(ours) != "host-a" || owner([]byte(java)) != "" || i.Metadata[registry.MarkHost] != "" {
		t.Errorf("owner %q", owner(ours))
	}
	got := strings.Replace(string(ours), `"meshferry.host":"host-a",`, "", 1)
	want := strings.Replace(java, `"registrationTimeUTC":1795177842094`, `"registrationTimeUTC":1795177839775`, 1)
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestParseInstanceRefuses(t *testing.T) {
	for _, data := range []string{
		"", "null", "[]", `"x"`, "127.0.0.1", `{"address":"","port":1}`, `{"address":"h","port":0}`, `{"address":"h","port":65536}`,
		`{"address":"h/x","port":1}`, `{"address":"h","port":"1"}`, `{"address":"h","port":1,"payload":[]}`,
	} {
		if i, err := parseInstance("app", []byte(data)); err == nil {
			t.Errorf("%s: %+v, want an error", data, i)
		}
	}
	i, err := parseInstance("app", []byte(`{"address":"h","port":1,"payload":{"metadata":{"n":1,"s":"x","o":{}}}}`))
	if err != nil || len(i.Metadata) != 1 || i.Metadata["s"] != "x" {
		t.Errorf("%+v, %v", i, err)
	}
}

func FuzzInstance(f *testing.F) {
	f.Add([]byte(`{"name":"a","id":"h:1","address":"h","port":1,"payload":{"metadata":{"k":"v"}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		owner(data)
		i, err := parseInstance("app", data)
		if err != nil {
			return
		}
		b, err := marshalInstance(i, "host-a")
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseInstance("app", b)
		if err != nil || again.ID() != i.ID() {
			t.Errorf("%s: %+v, then %+v, %v", data, i, again, err)
		}
	})
}
