package main

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestEnvJava compares what is printed with testdata/env-*.txt, and holds what the
// agent is told.
func TestEnvJava(t *testing.T) {
	var told []string
	address := fake(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Method == http.MethodPost {
			if r.Header.Get("Content-Type") != "application/json" {
				t.Error("no JSON")
			}
			told = append(told, r.URL.Path+" "+string(body))
		}
		state := `"state":"serving"`
		if strings.Contains(string(body), "20899") {
			state = `"state":"waiting","reason":"port-closed"`
		}
		io.WriteString(w, `{"address":"10.0.0.5:20882","outbound":"127.0.0.1:20881","applications":[{"application":"shop","host":"127.0.0.1","port":20880,`+state+`}]}`)
	})
	provider, consumer := []string{"--application", "shop", "--port", "20880"}, []string{"--service", "com.a.Foo", "--service", "com.a.Outer$Inner"}
	for _, c := range []struct {
		golden string
		args   []string
		told   []string
		notes  string
	}{
		{"env-both", slices.Concat(provider, consumer), []string{`/v1/static {"application":"shop","port":20880}`}, "calls it at 127.0.0.1:20880.\n# To go back"},
		{"env-provider", []string{"--application", "shop", "--port", "20899"}, []string{`/v1/static {"application":"shop","port":20899}`}, "Nothing answers there yet (port-closed)"},
		{"env-bind", slices.Concat(provider, []string{"--bind", "127.0.0.1"}), []string{`/v1/static {"application":"shop","host":"127.0.0.1","port":20880}`}, "To go back"},
		{"env-27", []string{"--application", "shop", "--dubbo", "2.7"}, []string{`/v1/static {"application":"shop","host":"127.0.0.1","port":20882}`}, "To go back"},
		{"env-consumer", consumer, nil, ""},
		{"env-shell", slices.Concat(provider, consumer, []string{"--format", "shell", "--dry-run"}), nil, ""},
		{"env-systemd", slices.Concat(provider, consumer, []string{"--format", "systemd", "--dry-run"}), nil, ""},
		{"env-options", slices.Concat(provider, consumer, []string{"--format", "options", "--dry-run"}), nil, ""},
		{"env-remove", []string{"--application", "shop", "--remove"}, []string{`/v1/static/remove {"application":"shop"}`}, "has forgotten shop"},
	} {
		told = nil
		code, out, notes := command(append([]string{"env", "java", "--control", address}, c.args...)...)
		if code != exitDone || !slices.Equal(told, c.told) || !strings.Contains(notes, c.notes) || c.notes == "" && notes != "" {
			t.Errorf("%q: exit %d, told %q\n%s", c.args, code, told, notes)
		}
		file := filepath.Join("testdata", c.golden+".txt")
		if *update {
			if err := os.WriteFile(file, []byte(out), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
		}
		if out != string(want) {
			t.Errorf("%q printed\n%s\nwant\n%s", c.args, out, want)
		}
	}
}

// TestEnvJava27: what must be done about an agent that has the port everywhere.
func TestEnvJava27(t *testing.T) {
	address := fake(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			w.WriteHeader(http.StatusUnprocessableEntity)
			io.WriteString(w, `{"error":{"code":"invalid","message":"127.0.0.1:20882 is one of the agent's own listeners"}}`)
			return
		}
		io.WriteString(w, `{"address":"10.0.0.5:20882","outbound":"127.0.0.1:20881"}`)
	})
	code, out, errs := command("env", "java", "--control", address, "--application", "shop", "--dubbo", "2.7")
	if code != exitFailed || out != "" || !strings.Contains(errs, "--inbound 10.0.0.5:20882, so that 127.0.0.1:20882 is free") {
		t.Errorf("exit %d, %q, %s", code, out, errs)
	}
}

func TestEnvJavaRefuses(t *testing.T) {
	local := fake(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			t.Errorf("told %s", r.URL)
		}
		io.WriteString(w, `{"address":"127.0.0.1:20882","outbound":"x"}`)
	})
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"", exitUsage, "a provider needs --application and --port, a consumer --service"},
		{"--application shop", exitUsage, "--port is missing"},
		{"--port 20880", exitUsage, "--application is missing"},
		{"--application shop --port 70000", exitUsage, "1..65535"},
		{"--application shop --dubbo 2.7 --port 20880", exitUsage, "leave --port out"},
		{"--application shop --dubbo 2.6", exitUsage, "3 or 2.7"},
		{"--bind 127.0.0.1 --service com.a.Foo", exitUsage, "--application is missing"},
		{"--application shop --port 20880 --bind 10.0.0.1", exitUsage, "--bind wants a loopback address"},
		{"--application shop --port 20880 --bind x", exitUsage, "--bind wants a loopback address"},
		{"--service g1/com.a.Foo", exitUsage, "name the interface only (com.a.Foo)"},
		{"--service com.a.Foo:1.0", exitUsage, "name the interface only (com.a.Foo)"},
		{"--service com.a.Foo';ls", exitUsage, "is no Java interface"},
		{"--service :1", exitUsage, "bad service key"},
		{"--service com.a.Foo --format yaml", exitUsage, "env, shell, systemd or options"},
		{"--remove", exitUsage, "--remove wants --application"},
		{"--remove --application shop --port 1", exitUsage, "--remove wants --application and nothing else"},
		{"--application shop --port 20880", exitFailed, "Java refuses to register"},
		{"--service com.a.Foo", exitFailed, "outbound address"},
		{"extra", exitUsage, "unknown command"},
	} {
		args := append([]string{"env", "java", "--control", local}, strings.Fields(c.args)...)
		if code, out, errs := command(args...); code != c.code || out != "" || !strings.Contains(errs, c.want) {
			t.Errorf("%q: exit %d, %q, %s", c.args, code, out, errs)
		}
	}
	if code, _, errs := command("env", "java", "--service", "com.a.Foo", "--control", "127.0.0.1:1"); code != exitNotRunning || !strings.Contains(errs, "no agent answers") {
		t.Errorf("exit %d: %s", code, errs)
	}
	if code, out, _ := command("env", "java", "--help"); code != exitDone || !strings.Contains(out, "DUBBO_DUBBO_PORT_TO_REGISTRY") {
		t.Errorf("exit %d: %s", code, out)
	}
}

// What a shell makes of the shell format.
func TestEnvShell(t *testing.T) {
	text, err := os.ReadFile("testdata/env-shell.txt")
	if err != nil {
		t.Fatal(err)
	}
	for before, want := range map[string]string{"": "-Ddubbo.reference.com.a.Foo.url=", "-Xmx1g": "-Xmx1g -Ddubbo.reference.com.a.Foo.url="} {
		cmd := exec.Command("sh", "-c", string(text)+`printf '%s|%s|%s' "$DUBBO_IP_TO_REGISTRY" "$DUBBO_DUBBO_PORT_TO_REGISTRY" "$JAVA_TOOL_OPTIONS"`)
		cmd.Env = append(os.Environ(), "JAVA_TOOL_OPTIONS="+before)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), "10.0.0.5|20882|"+want) || !strings.Contains(string(out), " -Ddubbo.reference.com.a.Outer$Inner.url=dubbo://[::ffff:127.0.0.1]:20881/com.a.Outer$Inner?") {
			t.Errorf("%v: %s", err, out)
		}
	}
}
