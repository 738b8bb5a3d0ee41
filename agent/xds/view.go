package xds

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/meshferry/meshferry/xdsclient"
)

// View is what ServeHTTP answers.
type View struct {
	Ready     bool                    `json:"ready"`
	Servers   []xdsclient.ServerState `json:"servers"`
	Types     []xdsclient.TypeState   `json:"types"`
	Held      []xdsclient.Held        `json:"held,omitempty"`
	Resources []ResourceView          `json:"resources"`
	// Unsupported is what cannot be honoured, by resource.
	Unsupported map[string][]string `json:"unsupported,omitempty"`
}

// ResourceView is one resource; Config only with ?name=.
type ResourceView struct {
	Type    string          `json:"type"`
	Name    string          `json:"name"`
	State   string          `json:"state"`
	Version string          `json:"version,omitempty"`
	Server  string          `json:"server,omitempty"`
	At      *time.Time      `json:"at,omitempty"`
	NACK    *xdsclient.NACK `json:"nack,omitempty"`
	Kept    string          `json:"kept,omitempty"`
	Config  json.RawMessage `json:"config,omitempty"`
}

// ServeHTTP shows the state of the client: servers, versions, what was refused and
// why, what waits. With ?name= only resources with that in their name, and their
// configuration as it was received.
func (s *Source) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	part := r.URL.Query().Get("name")
	d := s.Dump()
	v := View{Ready: d.Ready, Servers: d.Servers, Types: d.Types, Held: d.Held, Unsupported: s.Unsupported(), Resources: []ResourceView{}}
	for _, x := range d.Resources {
		if !strings.Contains(x.Name, part) {
			continue
		}
		out := ResourceView{
			Type: x.URL[strings.LastIndexByte(x.URL, '.')+1:], Name: x.Name, State: x.State, Version: x.Version, Server: x.Server, NACK: x.NACK, Kept: x.Kept,
		}
		if !x.At.IsZero() {
			out.At = &x.At
		}
		if part != "" {
			out.Config = config(x)
		}
		v.Resources = append(v.Resources, out)
	}
	w.Header().Set("Content-Type", "application/json")
	// An error means that the client has gone.
	_ = json.NewEncoder(w).Encode(v)
}

// config is a resource as JSON; nil if it holds an extension that nobody here can
// print.
func config(x xdsclient.ResourceState) json.RawMessage {
	m := x.Decode()
	if m == nil {
		return nil
	}
	text, err := protojson.Marshal(m)
	if err != nil {
		text, _ = json.Marshal(map[string]string{"unprintable": err.Error()})
	}
	return text
}
