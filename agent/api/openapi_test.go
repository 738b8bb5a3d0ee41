package api

import (
	"context"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/gin-gonic/gin"
)

// describedAPI is the served description, checked against OpenAPI 3 itself.
func describedAPI(t testing.TB) *openapi3.T {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(description)
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(context.Background()); err != nil {
		t.Fatal(err)
	}
	return doc
}

var parameter = regexp.MustCompile(`:(\w+)`)

func TestDescriptionNamesEveryRoute(t *testing.T) {
	w := start(t, func(o *Options) { o.Admin = http.NotFoundHandler() })
	var routes, described []string
	for _, r := range w.server.control.(*gin.Engine).Routes() {
		routes = append(routes, r.Method+" "+parameter.ReplaceAllString(r.Path, "{$1}"))
	}
	for path, item := range describedAPI(t).Paths.Map() {
		for method := range item.Operations() {
			described = append(described, method+" "+path)
		}
	}
	slices.Sort(routes)
	slices.Sort(described)
	if !slices.Equal(routes, described) {
		t.Errorf("served:\n%s\ndescribed:\n%s", strings.Join(routes, "\n"), strings.Join(described, "\n"))
	}
	if r := w.call(t, "GET", "/v1/openapi.json", ""); r.status != 200 || r.body != string(description) {
		t.Errorf("served description: %d, %d bytes", r.status, len(r.body))
	}
}
