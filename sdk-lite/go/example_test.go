package meshferry_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"time"

	meshferry "github.com/meshferry/meshferry/sdk-lite/go"
)

// An application that offers one service and calls another. The agent here is a
// stand-in that knows two answers.
func Example() {
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		switch r.URL.Path {
		case "/v1/publish":
			fmt.Fprint(w, `{"agent":"b1","state":"published","publications":[{"service":"com.a.Foo","advertised":["dubbo://10.0.0.1:20882/com.a.Foo"]}]}`)
		case "/v1/subscribe":
			fmt.Fprint(w, `{"agent":"b1","subscription":"s1","revision":1,"state":"ready","mode":"mesh",
				"urls":{"providers":["dubbo://127.0.0.1:20881/com.a.Bar?interface=com.a.Bar"]},"fallback":["dubbo://10.0.0.5:20882/com.a.Bar"]}`)
		default: // lease and watch: a real agent holds them
			<-r.Context().Done()
		}
	}))
	defer agent.Close()

	c, err := meshferry.New(meshferry.Options{Address: agent.Listener.Addr().String(), Application: "shop"})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	var work sync.WaitGroup
	work.Go(func() { c.Run(ctx) })
	defer work.Wait()
	defer cancel()

	result, err := c.Publish(ctx, meshferry.Publication{URL: "dubbo://:20880/com.a.Foo?interface=com.a.Foo&application=shop"})
	if err != nil {
		fmt.Println(err) // the agent refuses
		return
	}
	fmt.Println(result.State) // "pending", with the reason "agent-away", without an agent

	bar, err := c.Subscribe(ctx, meshferry.Consumer{Interface: "com.a.Bar", Protocol: "dubbo"})
	if err != nil {
		fmt.Println(err)
		return
	}
	set, err := bar.Next(ctx, 0)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(set.Providers())
	// Output:
	// published
	// [dubbo://127.0.0.1:20881/com.a.Bar?interface=com.a.Bar]
}
