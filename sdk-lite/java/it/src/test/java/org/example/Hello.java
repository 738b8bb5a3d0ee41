package org.example;

public interface Hello {
    String hello(String name);
}
