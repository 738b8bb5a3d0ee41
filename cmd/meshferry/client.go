package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshferry/meshferry/agent/config"
)

const (
	answerTimeout = 10 * time.Second
	maxAnswer     = 64 << 20 // bytes
)

// client asks a running agent.
type client struct {
	control, socket, tokenFile string // of the flags
}

func (c *client) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.control, "control", "", "host:port of the agent's control API\n(default MESHFERRY_CONTROL, else 127.0.0.1:20883 when there is no socket)")
	cmd.Flags().StringVar(&c.socket, "control-socket", "", "unix socket of the agent's control API\n(default MESHFERRY_CONTROL_SOCKET, else where an agent has it by default)")
	cmd.Flags().StringVar(&c.tokenFile, "control-token-file", "", "file with the token that the control API wants over TCP\n(default MESHFERRY_CONTROL_TOKEN_FILE, else none)")
}

// token is what the control API wants over TCP, empty if nothing is set. Only who
// may read the file can ask.
func (c *client) token(env func(string) string) (string, error) {
	file := cmp.Or(c.tokenFile, env("MESHFERRY_CONTROL_TOKEN_FILE"))
	if file == "" {
		return "", nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("token of the control API: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// place is where an agent may listen.
type place struct{ network, address string }

func (p place) String() string { return p.network + ":" + p.address }

// places are where to look: what the flags say, else what the environment says,
// else the usual sockets that exist and the usual port.
func (c *client) places(uid int, env func(string) string, environ []string) (list []place) {
	for _, said := range [][2]string{{c.socket, c.control}, {env("MESHFERRY_CONTROL_SOCKET"), env("MESHFERRY_CONTROL")}} {
		for i, network := range []string{"unix", "tcp"} {
			if said[i] != "" {
				list = append(list, place{network, said[i]})
			}
		}
		if len(list) > 0 {
			return list
		}
	}
	for _, path := range config.Sockets(uid, environ) {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			list = append(list, place{"unix", path})
		}
	}
	return append(list, place{"tcp", "127.0.0.1:20883"})
}

// awayError says that no agent could be reached.
type awayError struct{ tried []error }

func (e awayError) Error() string {
	b := strings.Builder{}
	b.WriteString("no agent answers\n")
	denied := false
	for _, err := range e.tried {
		fmt.Fprintf(&b, "  tried %v\n", err)
		denied = denied || errors.Is(err, fs.ErrPermission)
	}
	if denied {
		b.WriteString("The socket is there, but this user may not use it: ask as root, or as the user of the agent.")
	} else {
		b.WriteString("Start one with 'meshferry run', or say where it listens with --control or --control-socket.")
	}
	return b.String()
}

// get asks for a path of the control API and decodes the answer into v. With
// format JSON it prints the answer as it came and says that it is done.
func (c *client) get(cmd *cobra.Command, f format, path string, query url.Values, v any) (printed bool, err error) {
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return c.ask(cmd, f, http.MethodGet, path, nil, v)
}

// post sends a body to the control API and decodes the answer into v.
func (c *client) post(cmd *cobra.Command, path string, body, v any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	_, err = c.ask(cmd, formatText, http.MethodPost, path, text, v)
	return err
}

func (c *client) ask(cmd *cobra.Command, f format, method, path string, sent []byte, v any) (printed bool, err error) {
	ctx, cancel := context.WithTimeout(cmd.Context(), answerTimeout)
	defer cancel()
	var away awayError
	for _, p := range c.places(os.Getuid(), os.Getenv, os.Environ()) {
		token := ""
		if p.network == "tcp" {
			if token, err = c.token(os.Getenv); err != nil {
				return false, err
			}
		}
		body, err := p.ask(ctx, method, path, token, sent)
		var dial *net.OpError
		if errors.As(err, &dial) && dial.Op == "dial" {
			away.tried = append(away.tried, fmt.Errorf("%s: %w", p, reason(dial)))
			continue
		}
		if err != nil {
			return false, fmt.Errorf("agent at %s: %w", p, err)
		}
		if f == formatJSON {
			return true, printJSON(cmd.OutOrStdout(), json.RawMessage(body))
		}
		if err := json.Unmarshal(body, v); err != nil {
			return false, fmt.Errorf("agent at %s: its answer cannot be read: %w", p, err)
		}
		return false, nil
	}
	return false, away
}

// reason is an error of the system without the words around it.
func reason(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

func (p place) ask(ctx context.Context, method, path, token string, sent []byte) ([]byte, error) {
	var d net.Dialer
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, p.network, p.address)
		},
	}
	host := p.address
	if p.network == "unix" {
		host = "localhost"
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+host+path, bytes.NewReader(sent))
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if sent != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := transport.RoundTrip(req)
	var dial *net.OpError
	switch {
	case err == nil:
	case errors.As(err, &dial) && dial.Op == "dial":
		return nil, err
	case ctx.Err() != nil:
		return nil, fmt.Errorf("no answer within %v: does it hang?", answerTimeout)
	default:
		return nil, fmt.Errorf("%w: is it an agent?", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	var problem struct {
		Error struct{ Code, Message, Detail string }
	}
	switch {
	case !json.Valid(body):
		return nil, fmt.Errorf("HTTP %d, and not JSON: is it an agent?", resp.StatusCode)
	case resp.StatusCode == http.StatusOK:
		return body, nil
	case json.Unmarshal(body, &problem) != nil || problem.Error.Message == "":
		return nil, fmt.Errorf("HTTP %d: is it an agent?", resp.StatusCode)
	}
	text := problem.Error.Message
	if problem.Error.Detail != "" {
		text += "; " + problem.Error.Detail
	}
	return nil, fmt.Errorf("%s (%s)", text, problem.Error.Code)
}
