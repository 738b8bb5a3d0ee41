package org.example;

import org.apache.dubbo.config.ApplicationConfig;
import org.apache.dubbo.config.ReferenceConfig;
import org.apache.dubbo.config.RegistryConfig;
import org.apache.dubbo.config.bootstrap.DubboBootstrap;

/** A consumer as one writes it for any registry: {@code Consumer <registry>}. */
public final class Consumer {
    private Consumer() {}

    public static void main(String[] args) throws Exception {
        ReferenceConfig<GreetService> reference = new ReferenceConfig<>();
        reference.setInterface(GreetService.class);
        reference.setTimeout(3000);
        DubboBootstrap.getInstance()
                .application(new ApplicationConfig("demo-java-consumer"))
                .registry(new RegistryConfig(args[0]))
                .reference(reference)
                .start();
        GreetService service = reference.get();
        Control.serve("consumer", "/call", query -> Ledger.of(query, () -> service.sayHello("world")));
    }
}
