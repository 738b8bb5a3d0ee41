package dubbogo

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"dubbo.apache.org/dubbo-go/v3/common"
	"dubbo.apache.org/dubbo-go/v3/common/constant"
)

// providerURL writes a provider as dubbo-go's own ZooKeeper registry does:
// parameters sorted and not encoded, empty ones left out, with methods and
// anyhost. The host stays empty when the application set none: the agent knows
// the address that other hosts dial, dubbo-go guesses. Source: dubbo-go's
// registry.BaseRegistry.providerRegistry.
func providerURL(u *common.URL) string {
	params := parameters(u)
	params[constant.AnyhostKey] = "true"
	if len(u.Methods) > 0 {
		params[constant.MethodsKey] = strings.Join(u.Methods, ",")
	}
	return fmt.Sprintf("%s://%s:%s%s?%s", u.Protocol, u.Ip, u.Port, u.Path, query(params))
}

// consumerURL writes a reference as BaseRegistry.consumerRegistry does. Empty
// parameters are left out here too: an empty group matches nothing in Java.
func consumerURL(u *common.URL) string {
	params := parameters(u)
	params["protocol"] = u.Protocol
	return fmt.Sprintf("consumer://%s?%s", u.Path, query(params))
}

func parameters(u *common.URL) map[string]string {
	params := map[string]string{}
	u.RangeParams(func(k, v string) bool {
		if v != "" {
			params[k] = v
		}
		return true
	})
	return params
}

func query(params map[string]string) string {
	pairs := make([]string, 0, len(params))
	for _, k := range slices.Sorted(maps.Keys(params)) {
		pairs = append(pairs, k+"="+plain(params[k]))
	}
	return strings.Join(pairs, "&")
}

// plain leaves a value as it is but for the characters that would end it or that
// no Dubbo URL may hold.
func plain(value string) string {
	var b strings.Builder
	for i := range len(value) {
		if c := value[i]; c <= ' ' || c == 0x7f || c == '&' || c == '#' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// dubboURL reads a URL that the agent hands out. dubbo-go decodes the text once
// more before it parses it.
//
// A reference's own retries win over the provider's for each method that it
// lists, and it always has some: retries=0, which keeps dubbo-go from repeating
// what the agent refuses, is therefore set for each method. Source: dubbo-go's
// common.URL.MergeURL and failover's getRetries.
func dubboURL(raw string, consumer *common.URL) (*common.URL, error) {
	u, err := common.NewURL(url.QueryEscape(raw))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", raw, err)
	}
	u.Methods = slices.Clone(consumer.Methods)
	withFilter(u, consumer)
	if retries := u.GetParam(constant.RetriesKey, ""); retries != "" {
		methods := append(strings.Split(u.GetParam(constant.MethodsKey, ""), ","), consumer.Methods...)
		for _, m := range methods {
			if key := "methods." + m + "." + constant.RetriesKey; m != "" && u.GetParam(key, "") == "" {
				u.SetParam(key, retries)
			}
		}
	}
	return u, nil
}
