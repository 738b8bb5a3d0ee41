package zookeeper

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParseURL(t *testing.T) {
	base := Options{Servers: []string{"h1:2181"}, Root: "dubbo", ServicesRoot: "services", SessionTimeout: 15 * time.Second}
	with := func(change func(*Options)) Options {
		o := base
		change(&o)
		return o
	}
	for _, c := range []struct {
		in   string
		want Options
	}{
		{"zookeeper://h1", base},
		{"zookeeper://h1:2181/", base},
		{"zookeeper://h1:2182,h2,[::1]:2183,[::2]/my/root", with(func(o *Options) {
			o.Servers, o.Root = []string{"h1:2182", "h2:2181", "[::1]:2183", "[::2]:2181"}, "my/root"
		})},
		{"zookeeper://u:p%40ss%2F@h1", with(func(o *Options) { o.User, o.Password = "u", "p@ss/" })},
		{"zookeeper://u:@h1", with(func(o *Options) { o.User = "u" })},
		{"zookeeper://u:a@b:c@h1", with(func(o *Options) { o.User, o.Password = "u", "a@b:c" })},
		{"zookeeper://h1?root=/r/&servicesRoot=s&sessionTimeout=4s", with(func(o *Options) {
			o.Root, o.ServicesRoot, o.SessionTimeout = "r", "s", 4*time.Second
		})},
		{"zookeeper://h1?group=g", with(func(o *Options) { o.Root, o.ServicesRoot = "g", "g" })},
		{"zookeeper://h1/r?group=g", with(func(o *Options) { o.Root, o.ServicesRoot = "r", "g" })},
		{"zookeeper://h1?tls=true", with(func(o *Options) { o.TLS.On = true })},
		{"zookeeper://h1?backup=h2:2182,h3", with(func(o *Options) {
			o.Servers = []string{"h1:2181", "h2:2182", "h3:2181"}
		})},
	} {
		if got, err := ParseURL(c.in); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("ParseURL(%q) = %+v, %v\nwant %+v", c.in, got, err, c.want)
		}
	}
	for _, in := range []string{
		"", "h1:2181", "nacos://h1", "zookeeper://", "zookeeper:///r", "zookeeper://h1,,h2", "zookeeper://h1:0", "zookeeper://h1:x",
		"zookeeper://h1:70000", "zookeeper://::1", "zookeeper://secret@h1", "zookeeper://:secret@h1", "zookeeper://u:%zzsecret@h1",
		"zookeeper://h1/a//b", "zookeeper://h1/..", "zookeeper://h1?sessionTimeout=5", "zookeeper://h1?sessionTimeout=-5s",
		"zookeeper://h1?timeout=5", "zookeeper://h1?tls=maybe", "zookeeper://u:secret@h1?bad=%zz",
	} {
		if got, err := ParseURL(in); err == nil {
			t.Errorf("ParseURL(%q) = %+v, want an error", in, got)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("the error of %q tells the password: %v", in, err)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	f.Add("zookeeper://u:p%40@h1:2181,[::1]/root?group=g&sessionTimeout=4s")
	f.Fuzz(func(t *testing.T, s string) {
		o, err := ParseURL(s)
		if err != nil {
			return
		}
		if len(o.Servers) == 0 || o.Root == "" || o.ServicesRoot == "" || o.SessionTimeout <= 0 {
			t.Errorf("ParseURL(%q) = %+v", s, o)
		}
		o.HostID = "h"
		if _, err := New(o); err != nil {
			t.Errorf("New(ParseURL(%q)): %v", s, err)
		}
	})
}
