package istio

import (
	"slices"
	"strings"
)

// fields says what Dubbo calls can use of a kind, below spec. A path stands for
// everything beneath it too.
type fields struct {
	used    []string
	ignored map[string]string // why it has no effect: a warning
	refused map[string]string // why it cannot be: an error; others that Istio knows are refused without a reason
}

const (
	everywhere = "it holds for every node"
	notHTTP    = "a Dubbo call is no HTTP request"
)

var policy = []string{
	"loadBalancer.simple", "loadBalancer.consistentHash.httpHeaderName", "loadBalancer.consistentHash.ringHash",
	"loadBalancer.consistentHash.maglev", "loadBalancer.consistentHash.minimumRingSize", "loadBalancer.localityLbSetting",
	"connectionPool.tcp.maxConnections", "connectionPool.tcp.connectTimeout", "connectionPool.tcp.idleTimeout", "connectionPool.tcp.tcpKeepalive",
	"connectionPool.http.http1MaxPendingRequests", "connectionPool.http.http2MaxRequests", "connectionPool.http.maxRetries",
	"connectionPool.http.maxRequestsPerConnection", "connectionPool.http.idleTimeout",
	"outlierDetection.consecutive5xxErrors", "outlierDetection.consecutiveGatewayErrors", "outlierDetection.consecutiveLocalOriginFailures",
	"outlierDetection.splitExternalLocalOriginErrors", "outlierDetection.interval", "outlierDetection.baseEjectionTime",
	"outlierDetection.maxEjectionPercent", "outlierDetection.minHealthPercent",
}

// idlePolicy are fields of a policy that have no effect.
var idlePolicy = map[string]string{
	"tls":                             "agents do not speak TLS to endpoints yet: calls go in plain text",
	"loadBalancer.warmupDurationSecs": "warm-up is Dubbo's own, from the provider's timestamp and warmup",
	"loadBalancer.warmup":             "warm-up is Dubbo's own, from the provider's timestamp and warmup",
	"retryBudget":                     "the agent has a budget of its own for retries",
	"connectionPool.tcp.maxConnectionDuration":        "connections stay as long as they are used",
	"connectionPool.http.maxConcurrentStreams":        notHTTP,
	"connectionPool.http.http2KeepAlive":              notHTTP + ": see connectionPool.tcp.tcpKeepalive",
	"connectionPool.http.h2UpgradePolicy":             notHTTP,
	"connectionPool.http.useClientProtocol":           notHTTP,
	"outlierDetection.outlierDetectionHttpErrorCodes": "a Dubbo answer has no HTTP status",
}

var noPolicy = map[string]string{
	"loadBalancer.zoneAwareLbSetting":                    "use localityLbSetting",
	"loadBalancer.consistentHash.httpCookie":             "a Dubbo call has no cookies: use httpHeaderName with an attachment",
	"loadBalancer.consistentHash.useSourceIp":            "the agent's consumers are all on its own host: use httpHeaderName with an attachment",
	"loadBalancer.consistentHash.httpQueryParameterName": notHTTP + ": use httpHeaderName with an attachment",
	"outlierDetection.consecutiveErrors":                 "deprecated: use consecutive5xxErrors",
	"proxyProtocol":                                      "providers do not read it",
	"tunnel":                                             notHTTP,
}

var kinds = map[string]fields{
	"VirtualService": {
		used: []string{"hosts", "http.name", "http.match.name", "http.match.uri", "http.match.ignoreUriCase", "http.match.method", "http.match.headers",
			"http.match.withoutHeaders", "http.match.queryParams", "http.match.port", "http.match.gateways", "http.match.sourceLabels", "http.match.sourceNamespace",
			"http.route.destination", "http.route.weight", "http.route.headers.request",
			"http.timeout", "http.retries.attempts", "http.retries.perTryTimeout", "http.retries.retryOn", "http.retries.backoff", "http.retries.retryIgnorePreviousHosts",
			"http.fault.delay.fixedDelay", "http.fault.delay.percentage", "http.fault.abort.httpStatus", "http.fault.abort.percentage",
			"http.mirror", "http.mirrorPercentage", "http.mirrors", "http.headers.request", "http.directResponse.status", "http.directResponse.body.string", "gateways"},
		ignored: map[string]string{
			"exportTo":                           everywhere,
			"http.corsPolicy":                    "it is for browsers",
			"http.headers.response":              "attachments of answers are not changed",
			"http.route.headers.response":        "attachments of answers are not changed",
			"http.retries.retryRemoteLocalities": "the agent tries any endpoint",
			"http.match.statPrefix":              "metrics are by service",
		},
		refused: map[string]string{
			"tcp":                               "a route by connection cannot see calls: use http",
			"tls":                               "a route by connection cannot see calls: use http",
			"http.redirect":                     notHTTP,
			"http.rewrite":                      notHTTP,
			"http.delegate":                     "write the routes into one VirtualService",
			"http.mirrorPercent":                "deprecated: use mirrorPercentage",
			"http.match.authority":              "the host of a Dubbo call is its service",
			"http.match.scheme":                 notHTTP,
			"http.directResponse.body.bytes":    "use string",
			"http.fault.delay.percent":          "deprecated: use percentage",
			"http.fault.delay.exponentialDelay": "use fixedDelay",
			"http.fault.abort.grpcStatus":       "use httpStatus",
			"http.fault.abort.http2Error":       "use httpStatus",
		},
	},
	"DestinationRule": {
		used: slices.Concat([]string{"host", "subsets.name", "subsets.labels", "trafficPolicy.portLevelSettings.port", "subsets.trafficPolicy.portLevelSettings.port"},
			under("trafficPolicy.", policy), under("trafficPolicy.portLevelSettings.", policy),
			under("subsets.trafficPolicy.", policy), under("subsets.trafficPolicy.portLevelSettings.", policy)),
		ignored: reasons(map[string]string{"exportTo": everywhere}, idlePolicy, policies...),
		refused: reasons(map[string]string{"workloadSelector": everywhere}, noPolicy, policies...),
	},
	"ServiceEntry": {
		used: []string{"hosts", "ports", "resolution", "location", "endpoints.address", "endpoints.ports", "endpoints.labels", "endpoints.locality",
			"endpoints.weight", "workloadSelector"},
		ignored: map[string]string{
			"exportTo": everywhere, "addresses": "the agent finds services by name",
			"subjectAltNames": "TLS to providers is not configured here", "endpoints.network": "all endpoints are dialled directly",
			"endpoints.serviceAccount": "TLS to providers is not configured here",
		},
	},
	"WorkloadEntry": {
		used: []string{"address", "ports", "labels", "locality", "weight"},
		ignored: map[string]string{
			"network": "all endpoints are dialled directly", "serviceAccount": "TLS to providers is not configured here",
		},
	},
}

var policies = []string{"trafficPolicy.", "trafficPolicy.portLevelSettings.", "subsets.trafficPolicy.", "subsets.trafficPolicy.portLevelSettings."}

func under(prefix string, paths []string) []string {
	all := make([]string, len(paths))
	for i, p := range paths {
		all[i] = prefix + p
	}
	return all
}

func reasons(all, more map[string]string, prefixes ...string) map[string]string {
	for _, prefix := range prefixes {
		for path, why := range more {
			all[prefix+path] = why
		}
	}
	return all
}

// isUsed tells whether a path, or anything beneath it, is used.
func (f fields) isUsed(path string) bool {
	for _, u := range f.used {
		if u == path || strings.HasPrefix(path, u+".") || strings.HasPrefix(u, path+".") {
			return true
		}
	}
	return false
}
