// Package metadata asks a provider's own MetadataService what an instance serves:
// with storage-type "local", the default of Java Dubbo 3 and dubbo-go, that
// stands nowhere else.
//
// Invariant: one short connection for each question, bounded by its context, and
// nothing that a provider answers can make it panic or grow without bound.
package metadata

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	hessian "github.com/apache/dubbo-go-hessian2"

	"github.com/meshferry/meshferry/agent/proxy/dubbo"
	"github.com/meshferry/meshferry/registry"
)

// ErrUnsupported says that the instance offers its metadata in a way that this
// version does not speak (MetadataServiceV2 on triple).
var ErrUnsupported = errors.New("metadata service not supported")

const (
	service = "org.apache.dubbo.metadata.MetadataService"
	timeout = 3 * time.Second
	maxBody = 8 << 20
)

// Fetch calls MetadataService.getMetadataInfo(revision) of an instance over
// dubbo2 and hessian2. It is a registry.MetadataFunc. Where the service listens is
// told by the instance's dubbo.metadata-service.url-params. A provider that does
// not know the revision any more answers null, which is an error here. Source:
// org.apache.dubbo.registry.client.metadata.MetadataUtils#getRemoteMetadata.
func Fetch(ctx context.Context, i registry.Instance) (registry.Metadata, error) {
	m, err := fetch(ctx, i)
	if err != nil {
		return registry.Metadata{}, fmt.Errorf("metadata of %s at %s: %w", i.Application, i.ID(), err)
	}
	return m, nil
}

func fetch(ctx context.Context, i registry.Instance) (registry.Metadata, error) {
	var params map[string]string
	if err := json.Unmarshal([]byte(i.Metadata[registry.KeyURLParams]), &params); err != nil {
		return registry.Metadata{}, fmt.Errorf("%s: %w", registry.KeyURLParams, err)
	}
	if p := params["protocol"]; p != "" && p != "dubbo" {
		return registry.Metadata{}, fmt.Errorf("%w: protocol %q", ErrUnsupported, p)
	}
	port := i.Port
	if p, err := strconv.ParseUint(params["port"], 10, 16); err == nil && p > 0 {
		port = int(p)
	}
	group := params["group"]
	if group == "" {
		group = i.Application
	}
	version := params["version"]
	if version == "" {
		version = "1.0.0"
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(i.Host, strconv.Itoa(port)))
	if err != nil {
		return registry.Metadata{}, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	request, err := request(group, version, i.Metadata[registry.KeyRevision])
	if err != nil {
		return registry.Metadata{}, err
	}
	if _, err := conn.Write(request); err != nil {
		return registry.Metadata{}, err
	}
	body, err := response(conn)
	if err != nil {
		return registry.Metadata{}, errors.Join(ctx.Err(), err)
	}
	return decode(body)
}

const requestID = 1

// request is one frame: see org.apache.dubbo.rpc.protocol.dubbo.DubboCodec#encodeRequestData.
func request(group, version, revision string) ([]byte, error) {
	e := hessian.NewEncoder()
	for _, v := range []any{"2.0.2", service, version, "getMetadataInfo", "Ljava/lang/String;", revision, map[any]any{
		"path": service, "interface": service, "version": version, "group": group, "timeout": strconv.FormatInt(timeout.Milliseconds(), 10),
	}} {
		if err := e.Encode(v); err != nil {
			return nil, err
		}
	}
	frame := make([]byte, dubbo.HeaderSize, dubbo.HeaderSize+len(e.Buffer()))
	copy(frame, []byte{0xda, 0xbb, 0xc0 | dubbo.Hessian2})
	dubbo.PutID(frame, requestID)
	binary.BigEndian.PutUint32(frame[12:], uint32(len(e.Buffer())))
	return append(frame, e.Buffer()...), nil
}

// response is the body of the reply; heartbeats before it are left unanswered.
func response(r io.Reader) ([]byte, error) {
	header := make([]byte, dubbo.HeaderSize)
	for {
		if _, err := io.ReadFull(r, header); err != nil {
			return nil, err
		}
		h, err := dubbo.ParseHeader(header)
		if err != nil {
			return nil, err
		}
		if h.BodyLen > maxBody {
			return nil, dubbo.ErrTooLarge
		}
		body := make([]byte, h.BodyLen)
		if _, err := io.ReadFull(r, body); err != nil {
			return nil, err
		}
		if h.IsRequest() || h.IsEvent() || h.ID != requestID {
			continue
		}
		if h.Status != dubbo.StatusOK {
			text, _ := dubbo.ErrorText(h.Serialization(), body)
			return nil, fmt.Errorf("status %d: %s", h.Status, text)
		}
		return body, nil
	}
}

// decode reads a response body that holds a MetadataInfo.
func decode(body []byte) (m registry.Metadata, err error) {
	d := decoder{b: body}
	kind, err := d.int()
	if err != nil {
		return m, err
	}
	if kind != 1 && kind != 4 { // DubboCodec.RESPONSE_VALUE, …_WITH_ATTACHMENTS
		return m, fmt.Errorf("no value in the answer (type %d): the revision is not known there, or the service is not", kind)
	}
	value, err := d.value(0)
	if err != nil {
		return m, err
	}
	fields, ok := value.(map[string]any)
	if !ok {
		return m, fmt.Errorf("the answer is a %T", value)
	}
	m = registry.Metadata{Application: text(fields["app"]), Revision: text(fields["revision"]), Services: map[string]registry.ServiceInfo{}}
	services, _ := fields["services"].(map[string]any)
	for key, s := range services {
		f, ok := s.(map[string]any)
		if !ok {
			continue
		}
		info := registry.ServiceInfo{
			Name: text(f["name"]), Group: text(f["group"]), Version: text(f["version"]),
			Protocol: text(f["protocol"]), Path: text(f["path"]), Params: map[string]string{},
		}
		if n, ok := f["port"].(int64); ok && n > 0 && n <= 65535 {
			info.Port = int(n)
		}
		params, _ := f["params"].(map[string]any)
		for k, v := range params {
			info.Params[k] = text(v)
		}
		m.Services[key] = info
	}
	return m, nil
}

// text is v as a string, empty when it is none.
func text(v any) string {
	s, _ := v.(string)
	return s
}
