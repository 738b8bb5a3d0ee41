package api

import (
	_ "embed"
	"net/http"

	"github.com/gin-gonic/gin"
)

// description is the OpenAPI 3 description of the control API. A test holds it
// to the routes and to the contract.
//
//go:embed openapi.json
var description []byte

func (s *Server) openapi(c *gin.Context) {
	c.Data(http.StatusOK, "application/json", description)
}
