package controlplane

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestFolderIsNotified changes a folder in the ways of editors, configuration
// management and Kubernetes. It is looked at by the clock once an hour: what is
// served came by notification.
func TestFolderIsNotified(t *testing.T) {
	top := t.TempDir()
	rule := func(n int) string {
		return fmt.Sprintf("{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: a}, spec: {hosts: [%s], http: [{route: [{destination: {host: %[1]s}}], timeout: %ds}]}}\n", demoHost, n)
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	put := func(path, text string) {
		t.Helper()
		do(os.MkdirAll(filepath.Dir(path), 0o700))
		do(os.WriteFile(path, []byte(text), 0o600))
	}
	put(top+"/releases/1/a.yaml", rule(1))
	dir := top + "/current"
	do(os.Symlink("releases/1", dir))
	_, s := startWith(t, newFake(t, demoURL), Options{Folder: dir, Poll: time.Hour})
	served := func(n int) {
		t.Helper()
		eventually(t, fmt.Sprintf("served %d", n), func() bool {
			e := s.state.base.routes.lookup(clusterName(20882, "", demoHost))
			m, err := e.resource.Resource.UnmarshalNew()
			return err == nil && strings.Contains(fmt.Sprint(m), fmt.Sprintf("max_stream_duration:{seconds:%d}", n))
		})
	}
	served(1)
	put(dir+"/a.yaml", rule(2)) // in place
	served(2)
	write(t, dir, "a.yaml", rule(3)) // by a rename
	served(3)
	do(os.Remove(dir + "/a.yaml"))
	put(dir+"/below/b.yaml", rule(4)) // in a new folder
	served(4)
	put(dir+"/below/b.yaml", rule(5))
	served(5)
	put(top+"/releases/6/a.yaml", rule(6)) // the folder itself is a link that moves
	do(os.Symlink("releases/6", top+"/next"))
	do(os.Rename(top+"/next", dir))
	served(6)
	do(os.Rename(dir, top+"/away")) // and is away for a time
	eventually(t, "missed", func() bool { return strings.Contains(s.folder.Load().Refused, "no such file") })
	if !s.ready.Load() {
		t.Error("not ready")
	}
	do(os.Rename(top+"/away", dir))
	eventually(t, "back", func() bool { return s.folder.Load().Refused == "" })
	served(6)
	// As Kubernetes mounts: links to files of a hidden folder that is swapped.
	put(dir+"/..1/c.yaml", rule(7))
	do(os.Symlink("..1", dir+"/..data"))
	do(os.Remove(dir + "/a.yaml"))
	do(os.Symlink("..data/c.yaml", dir+"/c.yaml"))
	served(7)
	put(dir+"/..2/c.yaml", rule(8))
	do(os.Symlink("..2", dir+"/..tmp"))
	do(os.Rename(dir+"/..tmp", dir+"/..data"))
	served(8)
}
