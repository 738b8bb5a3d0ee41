package org.example.provider;

import org.apache.dubbo.config.annotation.DubboService;
import org.apache.dubbo.rpc.RpcContext;
import org.example.Calls;
import org.example.GreetService;
import org.springframework.beans.factory.annotation.Value;

@DubboService
public class Greeter implements GreetService {
    private final Calls calls;
    private final String name;

    public Greeter(Calls calls, @Value("${greeter.name}") String name) {
        this.calls = calls;
        this.name = name;
    }

    @Override
    public String sayHello(String who) {
        calls.count(RpcContext.getContext().getRemoteAddressString());
        return "hello " + who + ", this is " + name;
    }
}
