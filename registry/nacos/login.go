package nacos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// errLogin says that the server does not take user and password.
var errLogin = errors.New("login refused")

// httpClient is for logins and the check of the namespace; each uses one
// connection.
func (o Options) httpClient() (*http.Client, error) {
	secure, err := o.TLS.Config()
	if err != nil {
		return nil, err
	}
	return &http.Client{Timeout: requestWithin, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: secure}}, nil
}

func (o Options) base(server string) string {
	if o.TLS.On {
		return "https://" + server + o.ContextPath
	}
	return "http://" + server + o.ContextPath
}

// login gets a token and how long it is good for. Without a user there is none.
// Nacos 3 has another address, and says so by "gone" or "not found" at the first.
// A wrong password is to it an error of its own, status 500, at both (3.1).
func (o Options) login(ctx context.Context, server string) (token string, ttl time.Duration, err error) {
	if o.User == "" {
		return "", 0, nil
	}
	client, err := o.httpClient()
	if err != nil {
		return "", 0, err
	}
	form := url.Values{"username": {o.User}, "password": {o.Password}}.Encode()
	var status int
	var body []byte
	for n, path := range []string{"/v1/auth/users/login", "/v3/auth/user/login"} {
		before := status
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, o.base(server)+path, strings.NewReader(form))
		if err != nil {
			return "", 0, err
		}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		status, body, err = fetch(client, r)
		if err != nil && strings.Contains(err.Error(), `malformed HTTP status code "0"`) {
			// Nacos 2.3 makes the code of its exception the status, and that has none.
			status, err = http.StatusForbidden, nil
		}
		if err != nil {
			return "", 0, fmt.Errorf("login at %s: %w", server, err)
		}
		elsewhere := status == http.StatusGone || status == http.StatusNotFound || status == http.StatusNotImplemented
		if n > 0 && elsewhere {
			status = before // Nacos 2 has the first only
		}
		if !elsewhere && status != http.StatusInternalServerError {
			break
		}
	}
	if status == http.StatusInternalServerError && o.ready(ctx, client, server) {
		status = http.StatusForbidden
	}
	var a struct {
		AccessToken string
		TokenTTL    int64 `json:"tokenTtl"` // seconds
	}
	switch {
	case status == http.StatusForbidden || status == http.StatusUnauthorized:
		return "", 0, fmt.Errorf("%w: %s does not take the password of user %q", errLogin, server, o.User)
	case status != http.StatusOK:
		return "", 0, fmt.Errorf("login at %s: HTTP status %d: %.200s", server, status, body)
	case json.Unmarshal(body, &a) != nil || a.AccessToken == "":
		return "", 0, fmt.Errorf("login at %s: no token in the answer", server)
	}
	return a.AccessToken, time.Duration(a.TokenTTL) * time.Second, nil
}

// ready tells whether a Nacos 3 says that it serves: then an error of a login is
// about the password.
func (o Options) ready(ctx context.Context, client *http.Client, server string) bool {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, o.base(server)+"/v3/admin/core/state/readiness", nil)
	if err != nil {
		return false
	}
	status, _, err := fetch(client, r)
	return err == nil && status == http.StatusOK
}

func fetch(client *http.Client, r *http.Request) (status int, body []byte, err error) {
	a, err := client.Do(r)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // callers name the server
		}
		return 0, nil, err
	}
	defer a.Body.Close()
	body, err = io.ReadAll(io.LimitReader(a.Body, 1<<20))
	return a.StatusCode, body, err
}

// namespaceMissing tells whether the server says that the namespace does not
// exist: it takes registrations for one that nobody will ever look into. A server
// that does not answer the question, or not us, leaves it open. Namespaces have names
// too, which are easily taken for ids: those that are called so are given.
func (o Options) namespaceMissing(ctx context.Context, server, token string) (missing bool, ids []string) {
	if o.Namespace == "" {
		return false, nil
	}
	client, err := o.httpClient()
	if err != nil {
		return false, nil
	}
	for _, path := range []string{"/v1/console/namespaces", "/v3/admin/core/namespace/list"} {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, o.base(server)+path+"?accessToken="+url.QueryEscape(token), nil)
		if err != nil {
			return false, nil
		}
		status, body, err := fetch(client, r)
		if err != nil {
			return false, nil
		}
		var a struct {
			Data []struct{ Namespace, NamespaceShowName string }
		}
		if status != http.StatusOK || json.Unmarshal(body, &a) != nil || len(a.Data) == 0 {
			continue
		}
		for _, n := range a.Data {
			if n.Namespace == o.Namespace {
				return false, nil
			}
			if n.NamespaceShowName == o.Namespace {
				ids = append(ids, n.Namespace)
			}
		}
		return true, ids
	}
	return false, nil
}
