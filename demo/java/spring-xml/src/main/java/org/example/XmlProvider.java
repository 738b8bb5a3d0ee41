package org.example;

import org.apache.dubbo.rpc.RpcContext;
import org.springframework.context.support.ClassPathXmlApplicationContext;

/** The implementation; what it is served with stands in provider.xml. */
public final class XmlProvider implements GreetService {
    private final Calls calls = new Calls();
    private String name;

    public static void main(String[] args) throws Exception {
        ClassPathXmlApplicationContext context = new ClassPathXmlApplicationContext("provider.xml");
        context.registerShutdownHook();
        context.start();
        Calls calls = context.getBean(XmlProvider.class).calls;
        Control.serve("provider", "/stats", query -> calls.toString());
    }

    public void setName(String name) {
        this.name = name;
    }

    @Override
    public String sayHello(String who) {
        calls.count(RpcContext.getContext().getRemoteAddressString());
        return "hello " + who + ", this is " + name;
    }
}
