package api

import (
	"net"
	"strings"
	"testing"

	"github.com/meshferry/meshferry/agent/route"
)

func TestMosn(t *testing.T) {
	l := listen(t, "tcp", "127.0.0.1:0")
	w := start(t, func(o *Options) { o.Mosn = &Mosn{Listeners: []net.Listener{l}, ProviderPort: 20880} })
	base := "http://" + l.Addr().String()
	w.say(t, "com.x.A", route.Empty, "")
	const service = `{"registry":{"type":"zookeeper","addr":"127.0.0.1:1","username":"u","password":"p"},"port":"1",
		"service":{"interface":"com.x.A","methods":["m1"],"group":"g","version":"1.0.0"}}`
	for _, test := range []struct {
		path, body string
		errno      int
		text       string
	}{
		{"/pub", service, 0, "publish success"},
		{"/pub", service, 0, "publish success"},
		{"/sub", service, 0, "subscribe success"},
		{"/unsub", service, 0, "unsubscribe success"},
		{"/unpub", service, 0, "unpub success"},
		{"/unpub", service, 0, "unpub success"},
		{"/pub", `{"service":{}}`, 1, "publish fail, err: "},
		{"/unpub", `{"service":{}}`, 1, "unpub fail, err: "},
		{"/sub", `{"service":{}}`, 1, "subscribe fail, err: "},
		{"/unsub", `{"service":{}}`, 1, "unsubscribe fail, err: "},
		{"/pub", `{`, 1, "publish fail, err: "},
	} {
		r := w.callAt(t, base, "POST", test.path, test.body, "Content-Type", "text/plain")
		var got mosnReply
		r.into(t, &got)
		if r.status != 200 || got.Errno != test.errno || !strings.HasPrefix(got.ErrMsg, test.text) || test.errno == 0 && got.ErrMsg != test.text {
			t.Errorf("%s: %d %s", test.path, r.status, r.body)
		}
		view := w.store.View().Load()
		switch test.path {
		case "/pub":
			if test.errno == 0 && (len(view.Publications) != 1 || view.Publications[0].Port != 20880 || view.Publications[0].Service.Key() != "g/com.x.A:1.0.0") {
				t.Errorf("%+v", view.Publications)
			}
		case "/sub":
			if test.errno == 0 && (len(view.Subscriptions) != 1 || view.Subscriptions[0].Service.Key() != "g/com.x.A:*") {
				t.Errorf("%+v", view.Subscriptions)
			}
		}
	}
	if view := w.store.View().Load(); len(view.Publications) != 0 || len(view.Subscriptions) != 0 {
		t.Errorf("left: %+v", view)
	}
	if r := w.callAt(t, base, "GET", "/pub", ""); r.status != 405 {
		t.Errorf("GET: %d", r.status)
	}
	if r := w.callAt(t, base, "POST", "/v1/publish", service); r.status != 404 {
		t.Errorf("the control API answers on this listener: %d", r.status)
	}
	var got mosnReply
	r := w.callAt(t, base, "POST", "/pub", service, "Origin", "http://evil.example")
	if r.into(t, &got); r.status != 200 || got.Errno != 1 {
		t.Errorf("from a web page: %d %s", r.status, r.body)
	}
	w.call(t, "POST", "/pub", service).refused(t, 404, "not-found")
}
