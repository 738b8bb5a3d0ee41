package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/meshferry/meshferry/agent/workload"
	"github.com/meshferry/meshferry/registry"
)

// Problem is the body of every refusal: {"error":{"code","message","detail"}}.
type Problem struct {
	Error ProblemText `json:"error"`
}

// ProblemText says what was refused. Code is for programs and is one of those
// in the table of errors.go; Message is for people; Detail says what to do, or
// is empty.
type ProblemText struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Detail  string `json:"detail,omitempty"`
}

// refusal is an error that already knows its code. After is the time, if any,
// after which trying again makes sense.
type refusal struct {
	code    string
	message string
	detail  string
	after   time.Duration
}

func (r *refusal) Error() string { return r.message }

func refuse(code, detail, format string, args ...any) *refusal {
	return &refusal{code: code, message: fmt.Sprintf(format, args...), detail: detail}
}

// statuses maps every code to its HTTP status.
var statuses = map[string]int{
	"malformed":     http.StatusBadRequest,
	"unknown-field": http.StatusBadRequest,
	"bad-url":       http.StatusBadRequest,
	"unauthorised":  http.StatusUnauthorized,
	"forbidden":     http.StatusForbidden,
	"not-found":     http.StatusNotFound,
	"method":        http.StatusMethodNotAllowed,
	"owned":         http.StatusConflict,
	"gone":          http.StatusGone,
	"too-large":     http.StatusRequestEntityTooLarge,
	"url-too-long":  http.StatusRequestURITooLong,
	"content-type":  http.StatusUnsupportedMediaType,
	"invalid":       http.StatusUnprocessableEntity,
	"limit":         http.StatusTooManyRequests,
	"internal":      http.StatusInternalServerError,
	"stopping":      http.StatusServiceUnavailable,
	"unavailable":   http.StatusServiceUnavailable,
}

// sentinels maps errors of other packages to codes.
var sentinels = []struct {
	err  error
	code string
}{
	{registry.ErrURL, "bad-url"},
	{workload.ErrOwned, "owned"},
	{workload.ErrInvalid, "invalid"},
	{workload.ErrLimit, "limit"},
	{workload.ErrForbidden, "forbidden"},
	{workload.ErrUnknown, "not-found"},
	{workload.ErrStopped, "stopping"},
	{context.Canceled, "unavailable"},
	{context.DeadlineExceeded, "unavailable"},
}

// refusalOf finds code and text of any error. What nobody foresaw is "internal".
func refusalOf(err error) *refusal {
	var r *refusal
	if errors.As(err, &r) {
		return r
	}
	var size *http.MaxBytesError
	if errors.As(err, &size) {
		return refuse("too-large", "send several smaller batches", "the body is longer than %d bytes", size.Limit)
	}
	for _, s := range sentinels {
		if errors.Is(err, s.err) {
			r := refuse(s.code, "", "%v", err)
			if status := statuses[s.code]; status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
				r.after = time.Second
			}
			return r
		}
	}
	return refuse("internal", "", "%v", err)
}

func (r *refusal) problem() Problem {
	return Problem{ProblemText{Code: r.code, Message: r.message, Detail: r.detail}}
}

// fail answers with the status and body of err and ends the request.
func (s *Server) fail(c *gin.Context, err error) {
	r := refusalOf(err)
	status := statuses[r.code]
	if status == http.StatusInternalServerError {
		s.log.Error("control API request failed", "method", c.Request.Method, "path", c.Request.URL.Path, "err", err)
	}
	if c.GetBool(mosnKey) {
		c.Abort()
		c.PureJSON(http.StatusOK, mosnReply{1, r.message})
		return
	}
	if r.after > 0 {
		seconds := int((r.after + time.Second - 1) / time.Second)
		c.Header("Retry-After", strconv.Itoa(seconds))
	}
	c.Abort()
	c.PureJSON(status, r.problem())
}
