package org.example;

public interface Follower {
    /** Answers with a text of its own, which the provider reads. */
    String tell(String text);
}
