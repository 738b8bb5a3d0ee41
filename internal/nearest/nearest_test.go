package nearest

import "testing"

func TestName(t *testing.T) {
	known := []string{"zookeeper", "nacos", "local", "tls", "listeners.outbound", "listeners.inbound"}
	for name, want := range map[string]string{
		"zookeper":           "zookeeper",
		"Zookeeper":          "zookeeper", // the case of letters does not count
		"nacso":              "nacos",
		"tl":                 "tls",
		"tsl":                "", // of a short name one letter may differ
		"etcd":               "",
		"listeners.outbond":  "listeners.outbound",
		"listeners.inbound":  "listeners.inbound",
		"listener.inbounds":  "listeners.inbound",
		"":                   "",
		"somethingelse":      "",
		"zookeeperzookeeper": "",
	} {
		if got := Name(name, known); got != want {
			t.Errorf("Name(%q) = %q, want %q", name, got, want)
		}
	}
	if got := Name("nacos", nil); got != "" {
		t.Errorf("of no names: %q", got)
	}
	if got := Name("ab", []string{"ax", "ay"}); got != "ax" {
		t.Errorf("of two that are as near: %q, want the first", got)
	}
}

func TestDidYouMean(t *testing.T) {
	for name, want := range map[string]string{"nacoss": ` (did you mean "nacos"?)`, "kubernetes": ""} {
		if got := DidYouMean(name, []string{"zookeeper", "nacos"}); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}
