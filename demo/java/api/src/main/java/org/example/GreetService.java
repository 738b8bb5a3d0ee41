package org.example;

/** The service of the demo; the application in Go has the same. */
public interface GreetService {
    String sayHello(String name);
}
