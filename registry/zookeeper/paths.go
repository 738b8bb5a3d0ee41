package zookeeper

import (
	"net/url"
	"strings"

	"github.com/meshferry/meshferry/registry"
)

// paths composes the paths of nodes. Sources:
// org.apache.dubbo.registry.zookeeper.ZookeeperRegistry (interfaces),
// ZookeeperServiceDiscovery (instances), ZookeeperMetadataReport (mapping and
// metadata).
type paths struct{ root, services string } // each with a leading slash

func (p paths) providers(iface string) string { return p.root + "/" + encode(iface) + "/providers" }

func (p paths) leaf(iface, category, url string) string {
	return p.root + "/" + encode(iface) + "/" + category + "/" + encode(url)
}

func (p paths) mapping(iface string) string { return p.root + "/mapping/" + iface }

func (p paths) instances(app string) string { return p.services + "/" + app }

func (p paths) instance(i registry.Instance) string { return p.instances(i.Application) + "/" + i.ID() }

// metadata is where Java and dubbo-go keep the metadata of a revision.
func (p paths) metadata(app, revision string) [2]string {
	return [2]string{p.root + "/metadata/" + app + "/" + revision, p.root + "/" + app + "/" + revision}
}

func isLeaf(path string) bool {
	return strings.Contains(path, "/providers/") || strings.Contains(path, "/consumers/")
}

// encode is java.net.URLEncoder#encode in UTF-8: what Dubbo names leaves with,
// and what somebody must repeat exactly to find one.
func encode(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	b.Grow(len(s) + len(s)/4)
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '-' || c == '*' || c == '_':
			b.WriteByte(c)
		case c == ' ':
			b.WriteByte('+')
		default:
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}

func decode(name string) (registry.URL, error) {
	text, err := url.QueryUnescape(name)
	if err != nil {
		return registry.URL{}, err
	}
	return registry.ParseURL(text)
}
