package org.example.provider;

import org.apache.dubbo.config.spring.context.annotation.EnableDubbo;
import org.example.Calls;
import org.example.Control;
import org.springframework.boot.CommandLineRunner;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.context.annotation.Bean;

/** A provider as one writes it for any registry. Which one it is stands in application.properties. */
@SpringBootApplication
@EnableDubbo
public class ProviderApplication {
    public static void main(String[] args) {
        SpringApplication.run(ProviderApplication.class, args);
    }

    @Bean
    Calls calls() {
        return new Calls();
    }

    @Bean
    CommandLineRunner control(Calls calls) {
        return args -> Control.serve("provider", "/stats", query -> calls.toString());
    }
}
