package org.example.consumer;

import org.apache.dubbo.config.annotation.DubboReference;
import org.apache.dubbo.config.spring.context.annotation.EnableDubbo;
import org.example.Control;
import org.example.GreetService;
import org.example.Ledger;
import org.springframework.boot.CommandLineRunner;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;

/** A consumer as one writes it for any registry. Which one it is stands in application.properties. */
@SpringBootApplication
@EnableDubbo
public class ConsumerApplication implements CommandLineRunner {
    @DubboReference(timeout = 3000)
    private GreetService service;

    public static void main(String[] args) {
        SpringApplication.run(ConsumerApplication.class, args);
    }

    @Override
    public void run(String... args) throws Exception {
        Control.serve("consumer", "/call", query -> Ledger.of(query, () -> service.sayHello("world")));
    }
}
