package registrytest

import (
	"fmt"

	"github.com/meshferry/meshferry/registry"
)

const (
	greeter = "org.example.GreeterService"
	// order's name begins with greeter's.
	order = "org.example.GreeterServiceOrder"
)

func parse(texts ...string) registry.Desired {
	var d registry.Desired
	for _, text := range texts {
		u, err := registry.ParseURL(text)
		if err != nil {
			panic(err) // a mistake in this package
		}
		d.Providers = append(d.Providers, u)
	}
	return d
}

// provider is one interface-level provider of iface.
func provider(iface, host string, port int, more string) registry.Desired {
	return parse(fmt.Sprintf("dubbo://%s:%d/%s?application=shop&interface=%s&side=provider&timestamp=1700000000000%s", host, port, iface, iface, more))
}

// hard are provider URLs whose text is easily changed on the way.
func hard() registry.Desired {
	return parse(
		// As Java 2.7 and 3.3 write them: order that is not sorted, an encoded list.
		"dubbo://192.0.2.1:20882/org.example.GreeterService?anyhost=true&application=shop&deprecated=false&dubbo=2.0.2&dynamic=true&generic=false&group=g1&interface=org.example.GreeterService&methods=hello,hello2&pid=17&release=2.7.23&revision=1.0&side=provider&timestamp=1700000000001&version=1.0.0&meshferry.origin=192.0.2.1:20880&meshferry.caps=1",
		"tri://192.0.2.1:20882/org.example.GreeterService?application=shop&interface=org.example.GreeterService&prefer.serialization=hessian2%2Cfastjson2&ext.protocol=&executor-management-mode=isolation&file-cache=true",
		// As dubbo-go writes it: zero weight, empty values, a doubled key.
		"dubbo://192.0.2.2:20882/com.path.Alias?interface=org.example.GreeterService&weight=0&group=&version=&loadbalance=random&weight=100",
		// Signs with a meaning in some encoding, more than one byte a letter, IPv6.
		"dubbo://[2001:db8::1]:20882/org.example.GreeterService?interface=org.example.GreeterService&x=a+b&y=%2B%20%25&z=~*'()!$;:@,&&empty&owner=Grüße&path=a/b?c",
		"dubbo://user:secret@192.0.2.3:20882/org.example.GreeterService?interface=org.example.GreeterService",
	)
}

// instance is the application shop at host:20882, serving each interface.
func instance(host, revision string, ifaces ...string) registry.Desired {
	app := registry.Application{
		Instance: registry.Instance{
			Application: "shop", Host: host, Port: 20882,
			Metadata: map[string]string{
				registry.KeyEndpoints:   `[{"port":20882,"protocol":"dubbo"}]`,
				registry.KeyRevision:    revision,
				registry.KeyStorageType: "remote",
				registry.KeyTimestamp:   "1700000000000",
				registry.MarkOrigin:     host + ":20880",
				registry.MarkCaps:       "1",
			},
		},
		Metadata: registry.Metadata{Application: "shop", Revision: revision, Services: map[string]registry.ServiceInfo{}},
	}
	for _, iface := range ifaces {
		for _, version := range []string{"", "2.0.0"} {
			key := registry.Service{Group: "g1", Interface: iface, Version: version}.Key() + ":dubbo"
			app.Metadata.Services[key] = registry.ServiceInfo{
				Name: iface, Group: "g1", Version: version, Protocol: "dubbo", Port: 20882, Path: iface,
				Params: map[string]string{"methods": "hello,hello2", "owner": "Grüße", "x": `"quoted" <&> %2C`, "revision": revision},
			}
		}
	}
	return registry.Desired{Applications: []registry.Application{app}}
}

// join is all of these as one agent's whole truth.
func join(all ...registry.Desired) registry.Desired {
	var d registry.Desired
	for _, one := range all {
		d.Providers = append(d.Providers, one.Providers...)
		d.Applications = append(d.Applications, one.Applications...)
		d.Consumers = append(d.Consumers, one.Consumers...)
	}
	return d
}
