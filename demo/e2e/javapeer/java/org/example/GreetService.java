package org.example;

/** The service of demo/app, as a Java application declares it. */
public interface GreetService {
    String sayHello(String name);

    /** Answers after so many milliseconds. */
    String slow(long ms);

    /** Answers with a business error. */
    String fail(String text);

    byte[] echo(byte[] data);
}
