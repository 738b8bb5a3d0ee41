package nacostest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Public is the namespace that is always there. An SDK names it by "".
const Public = "public"

// Instance is one instance as the server lists it.
type Instance struct {
	IP        string            `json:"ip"`
	Port      int               `json:"port"`
	Weight    float64           `json:"weight"`
	Healthy   bool              `json:"healthy"`
	Enabled   bool              `json:"enabled"`
	Ephemeral bool              `json:"ephemeral"`
	Cluster   string            `json:"clusterName"`
	Metadata  map[string]string `json:"metadata"`
}

var client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, Proxy: nil}}

// call sends one request to the server; the token of the last login goes along.
func (s *Server) call(ctx context.Context, method, path string, params url.Values) ([]byte, error) {
	params = maps.Clone(params)
	s.mu.Lock()
	if s.token != "" {
		if params == nil {
			params = url.Values{}
		}
		params.Set("accessToken", s.token)
	}
	s.mu.Unlock()
	target, body := "http://"+s.Addr()+path, ""
	if method == http.MethodPost {
		body = params.Encode()
	} else if len(params) > 0 {
		target += "?" + params.Encode()
	}
	r, err := http.NewRequestWithContext(ctx, method, target, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	a, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if a.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, a.Status, b)
	}
	return b, nil
}

// data is the "data" of an answer in the form of Nacos's v2 and v3 APIs.
func (s *Server) data(ctx context.Context, method, path string, params url.Values, to any) error {
	b, err := s.call(ctx, method, path, params)
	if err != nil {
		return err
	}
	var a struct {
		Code    int
		Message string
		Data    json.RawMessage
	}
	if err := json.Unmarshal(b, &a); err != nil {
		return fmt.Errorf("%s %s: %w: %.200s", method, path, err, b)
	}
	if a.Code != 0 {
		return fmt.Errorf("%s %s: %d %s: %s", method, path, a.Code, a.Message, a.Data)
	}
	if to == nil {
		return nil
	}
	return json.Unmarshal(a.Data, to)
}

// login gets a token. The password of a 3.x server is set once, by the first
// that asks.
func (s *Server) login(ctx context.Context) error {
	path := "/nacos/v1/auth/users/login"
	if s.dist.Version == V3 {
		path = "/nacos/v3/auth/user/login"
		// Refused once it is set: then the login says what is wrong, if anything is.
		_, _ = s.call(ctx, http.MethodPost, "/nacos/v3/auth/user/admin", url.Values{"password": {Password}})
	}
	b, err := s.call(ctx, http.MethodPost, path, url.Values{"username": {User}, "password": {Password}})
	if err != nil {
		return err
	}
	var a struct{ AccessToken string }
	if err := json.Unmarshal(b, &a); err != nil || a.AccessToken == "" {
		return fmt.Errorf("login: no token in %.200s", b)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token = a.AccessToken
	return nil
}

// CreateNamespace makes a namespace with that id and name.
func (s *Server) CreateNamespace(ctx context.Context, id, name string) error {
	if s.dist.Version == V3 {
		return s.data(ctx, http.MethodPost, "/nacos/v3/admin/core/namespace", url.Values{"namespaceId": {id}, "namespaceName": {name}}, nil)
	}
	return s.data(ctx, http.MethodPost, "/nacos/v2/console/namespace", url.Values{"namespaceId": {id}, "namespaceName": {name}}, nil)
}

// Services lists the names of the services of a group, sorted.
func (s *Server) Services(ctx context.Context, namespace, group string) ([]string, error) {
	if s.dist.Version == V3 {
		var page struct {
			PageItems []struct{ Name string }
		}
		err := s.data(ctx, http.MethodGet, "/nacos/v3/admin/ns/service/list", url.Values{"namespaceId": {namespace}, "groupNameParam": {group},
			"pageNo": {"1"}, "pageSize": {"500"}}, &page)
		var names []string
		for _, i := range page.PageItems {
			names = append(names, i.Name)
		}
		slices.Sort(names)
		return names, err
	}
	var page struct{ Services []string }
	err := s.data(ctx, http.MethodGet, "/nacos/v2/ns/service/list", url.Values{"namespaceId": {namespace}, "groupName": {group},
		"pageNo": {"1"}, "pageSize": {"500"}}, &page)
	slices.Sort(page.Services)
	return page.Services, err
}

// Instances lists the instances of a service, sorted by address. A service that
// is not there has none.
func (s *Server) Instances(ctx context.Context, namespace, group, service string) ([]Instance, error) {
	params := url.Values{"namespaceId": {namespace}, "groupName": {group}, "serviceName": {service}}
	var all []Instance
	var err error
	if s.dist.Version == V3 {
		err = s.data(ctx, http.MethodGet, "/nacos/v3/admin/ns/instance/list", params, &all)
		if err != nil && strings.Contains(err.Error(), "is not found") {
			err = nil
		}
	} else {
		var list struct{ Hosts []Instance }
		err = s.data(ctx, http.MethodGet, "/nacos/v2/ns/instance/list", params, &list)
		all = list.Hosts
	}
	slices.SortFunc(all, func(a, b Instance) int {
		return strings.Compare(a.IP+":"+strconv.Itoa(a.Port), b.IP+":"+strconv.Itoa(b.Port))
	})
	return all, err
}

// ErrNoConfig says that the server has no such configuration.
var ErrNoConfig = errors.New("no such configuration")

// Config is the content of a configuration.
func (s *Server) Config(ctx context.Context, namespace, group, dataID string) (string, error) {
	params := url.Values{"namespaceId": {namespace}, "groupName": {group}, "dataId": {dataID}}
	if s.dist.Version == V3 {
		var c *struct{ Content string }
		err := s.data(ctx, http.MethodGet, "/nacos/v3/admin/cs/config", params, &c)
		if err == nil && c == nil || err != nil && strings.Contains(err.Error(), "not exist") {
			return "", ErrNoConfig
		}
		if err != nil {
			return "", err
		}
		return c.Content, nil
	}
	params = url.Values{"namespaceId": {configNamespace(namespace)}, "group": {group}, "dataId": {dataID}}
	var content string
	err := s.data(ctx, http.MethodGet, "/nacos/v2/cs/config", params, &content)
	if err != nil && strings.Contains(err.Error(), "404") {
		return "", ErrNoConfig
	}
	return content, err
}

// SetConfig writes a configuration, and waits until it can be read: the server
// answers reads from a copy that is up to some hundred milliseconds old.
func (s *Server) SetConfig(ctx context.Context, namespace, group, dataID, content string) error {
	path, params := "/nacos/v3/admin/cs/config", url.Values{"namespaceId": {namespace}, "groupName": {group}, "dataId": {dataID}, "content": {content}}
	if s.dist.Version == V2 {
		path, params = "/nacos/v2/cs/config", url.Values{"namespaceId": {configNamespace(namespace)}, "group": {group}, "dataId": {dataID}, "content": {content}}
	}
	if err := s.data(ctx, http.MethodPost, path, params, nil); err != nil {
		return err
	}
	for {
		got, err := s.Config(ctx, namespace, group, dataID)
		if err == nil && got == content {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("configuration %s of %s: %w", dataID, group, errors.Join(ctx.Err(), err))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// configNamespace is how the configuration side of 2.x calls a namespace.
func configNamespace(id string) string {
	if id == Public {
		return ""
	}
	return id
}
