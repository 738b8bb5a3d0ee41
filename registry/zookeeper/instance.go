package zookeeper

import (
	"bytes"
	"encoding/json"
	"maps"
	"strconv"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/internal/backend"
)

const (
	ownerPrefix   = "meshferry:" // of the data of an interface leaf; the host id follows
	instanceClass = "org.apache.dubbo.registry.zookeeper.ZookeeperInstance"
)

// curator is the JSON of an instance node, fields in the order in which Java
// writes them. Source: org.apache.curator.x.discovery.ServiceInstance.
type curator struct {
	Name             string    `json:"name"`
	ID               string    `json:"id"`
	Address          string    `json:"address"`
	Port             int       `json:"port"`
	SSLPort          *int      `json:"sslPort"`
	Payload          payload   `json:"payload"`
	RegistrationTime int64     `json:"registrationTimeUTC"` // milliseconds
	ServiceType      string    `json:"serviceType"`
	URISpec          *struct{} `json:"uriSpec"`
}

type payload struct {
	Class    string            `json:"@class"`
	ID       string            `json:"id"`
	Name     string            `json:"name"`
	Metadata map[string]string `json:"metadata"`
}

// marshalInstance is the node data of an instance of ours. Equal instances give
// equal bytes: the registration time is the provider's start, not now, so that a
// restart of the agent changes nothing.
func marshalInstance(i registry.Instance, hostID string) ([]byte, error) {
	metadata := maps.Clone(i.Metadata)
	if metadata == nil {
		metadata = map[string]string{}
	}
	metadata[registry.MarkHost] = hostID
	started, _ := strconv.ParseInt(metadata[registry.KeyTimestamp], 10, 64)
	return backend.Marshal(curator{
		Name: i.Application, ID: i.ID(), Address: i.Host, Port: i.Port,
		Payload:          payload{Class: instanceClass, ID: i.ID(), Name: i.Application, Metadata: metadata},
		RegistrationTime: started, ServiceType: "DYNAMIC",
	})
}

// parseInstance reads the node data of an instance of app. Whatever else
// registers itself below the same root (Spring Cloud, say) is read as well, with
// the metadata that it has.
func parseInstance(app string, data []byte) (registry.Instance, error) {
	var c struct {
		Address string
		Port    int
		Payload struct{ Metadata map[string]any }
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return registry.Instance{}, err
	}
	if err := backend.CheckInstance(c.Address, c.Port); err != nil {
		return registry.Instance{}, err
	}
	i := registry.Instance{Application: app, Host: c.Address, Port: c.Port, Metadata: map[string]string{}}
	for k, v := range c.Payload.Metadata {
		if s, ok := v.(string); ok {
			i.Metadata[k] = s
		}
	}
	return i, nil
}

// owner is the host id in a node that an agent wrote, or empty.
func owner(data []byte) string {
	if id, ok := bytes.CutPrefix(data, []byte(ownerPrefix)); ok {
		return string(id)
	}
	var c struct {
		Payload struct{ Metadata map[string]any }
	}
	if json.Unmarshal(data, &c) != nil {
		return ""
	}
	id, _ := c.Payload.Metadata[registry.MarkHost].(string)
	return id
}
