package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/meshferry/meshferry/demo/e2e/javapeer"
)

// What Dubbo can do beside a plain call, through two agents, between two thin
// applications of one line: the caller cannot tell that agents are there.
func TestJavaCalls(t *testing.T) {
	long(t)
	t.Parallel()
	for _, line := range []javapeer.Line{javapeer.V27, javapeer.V33} {
		t.Run(string(line), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			a, b := w.agent("a"), w.agent("b")
			javapeer.Start(t, javapeer.Options{Line: line, Thin: true, Application: "shop", Registry: a.mesh(), Port: w.lanAddress().port, Name: "java",
				Group: "g", Version: "1.0.0", Features: true, Params: map[string]string{"token": "secret"}}) // calls without the token are refused
			a.published(3)
			c := javapeer.Start(t, javapeer.Options{Line: line, Thin: true, Application: "till", Registry: b.mesh(), Timeout: 4 * time.Second, Retries: new(0)})
			for _, use := range []struct{ what, want string }{
				{"null", "null"},
				{"business", "org.example.Refused 17: no such goods"},
				{"unchecked", "java.lang.IllegalStateException: broken"},
				{"framework", "RpcException timeout=true"},
				{"object", "42 [tea, ü€😀] < 41 [tea, ü€😀] < 7 [tea, ü€😀] < -"},
				{"generic", "2 [tea, milk] < 1"},
				{"async", "[later 0, later 1, later 2, later 3, later 4, later 5, later 6, later 7, later 8, later 9] at once 10"},
				{"oneway", "told 20"},
				{"attachments", "{shop.city=Paris, shop.note=ü€😀} back from the provider"},
				{"follow", "heard before 1;heard before 2;heard before 3; {after=5, before=3}"},
			} {
				t.Run(use.what, func(t *testing.T) {
					if got, err := c.Use(t.Context(), use.what, "g", "1.0.0"); err != nil || got != use.want {
						t.Errorf("%q, %v; want %q", got, err, use.want)
					}
				})
			}
			t.Run("2 MiB", func(t *testing.T) {
				entries, err := c.Call(t.Context(), javapeer.Call{Method: "echo", Arg: "2097152", N: 3, Group: "g", Version: "1.0.0"})
				if err != nil || len(entries) != 3 {
					t.Fatal(entries, err)
				}
				for _, e := range entries {
					if e.Answer != "2097152 bytes" {
						t.Errorf("%+v", e)
					}
				}
			})
			// Java makes such a reference a mergeable one.
			for _, any := range []javapeer.Call{{Group: "*", Version: "1.0.0"}, {Group: "*", Version: "*"}, {Group: "g,other", Version: "1.0.0"}} {
				t.Run("group "+any.Group+" version "+any.Version, func(t *testing.T) {
					entries, err := c.Call(t.Context(), any)
					if err != nil || len(entries) != 1 || entries[0].Answer != "hello world, this is java" {
						t.Errorf("%+v, %v", entries, err)
					}
				})
			}
			t.Run("nobody there", func(t *testing.T) {
				entries, err := c.Call(t.Context(), javapeer.Call{Group: "other", Version: "1.0.0"})
				if err != nil || len(entries) != 1 || entries[0].OK || !strings.HasPrefix(entries[0].Error, "org.apache.dubbo.rpc.RpcException: ") {
					t.Errorf("%+v, %v", entries, err)
				}
			})
		})
	}
}
