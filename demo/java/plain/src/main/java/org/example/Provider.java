package org.example;

import org.apache.dubbo.config.ApplicationConfig;
import org.apache.dubbo.config.ProtocolConfig;
import org.apache.dubbo.config.RegistryConfig;
import org.apache.dubbo.config.ServiceConfig;
import org.apache.dubbo.config.bootstrap.DubboBootstrap;
import org.apache.dubbo.rpc.RpcContext;

/**
 * A provider as one writes it for any registry: {@code Provider <registry> <port> <name>}.
 * With {@code -Ddemo.tell.caller=true} its answers say from where it was called.
 */
public final class Provider {
    private Provider() {}

    public static void main(String[] args) throws Exception {
        String name = args[2];
        Calls calls = new Calls();
        ServiceConfig<GreetService> service = new ServiceConfig<>();
        service.setInterface(GreetService.class);
        service.setRef(who -> {
            calls.count(RpcContext.getServiceContext().getRemoteAddressString());
            String answer = "hello " + who + ", this is " + name;
            return Boolean.getBoolean("demo.tell.caller") ? answer + ", called from " + caller() : answer;
        });
        DubboBootstrap.getInstance()
                .application(new ApplicationConfig("demo-java-provider"))
                .registry(new RegistryConfig(args[0]))
                .protocol(new ProtocolConfig("dubbo", Integer.parseInt(args[1])))
                .service(service)
                .start();
        Control.serve("provider", "/stats", query -> calls.toString());
    }

    /** The host from which a call came. */
    private static String caller() {
        RpcContext call = RpcContext.getServiceContext();
        return call.getRemoteHost().equals(call.getLocalHost()) ? "this host" : call.getRemoteHost();
    }
}
