package org.example;

import org.apache.dubbo.config.ApplicationConfig;
import org.apache.dubbo.config.ReferenceConfig;
import org.apache.dubbo.config.RegistryConfig;
import org.apache.dubbo.config.bootstrap.DubboBootstrap;

/**
 * A consumer as one writes it for any registry: {@code Consumer <registry>}.
 * With {@code -Ddemo.every=<milliseconds>} it makes calls by itself and prints who answered them and through which hops.
 */
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
        Control.serve("consumer", "/call", query -> Ledger.of(query, () -> service.sayHello("world"), HopFilter::json));

        int every = Integer.getInteger("demo.every", 0);
        for (int n = 1; every > 0; n++) {
            Thread.sleep(every);
            long begin = System.nanoTime();
            String outcome;
            try {
                outcome = HopFilter.hops(service.sayHello("world"));
            } catch (RuntimeException e) {
                outcome = "failed: " + e.getMessage();
            }
            System.out.printf("call %d: %s, %.1f ms%n", n, outcome, (System.nanoTime() - begin) / 1e6);
        }
    }
}
