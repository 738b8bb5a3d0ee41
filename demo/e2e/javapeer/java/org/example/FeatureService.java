package org.example;

import java.util.Map;
import java.util.concurrent.CompletableFuture;

/** What Dubbo can do beside a plain call. */
public interface FeatureService {
    String nothing();

    /** Answers with a declared exception of the application's own class. */
    String refuse(String text) throws Refused;

    /** Answers with an exception that is not declared. */
    String breakDown(String text);

    Order change(Order order);

    /** Answers after a while, from another thread. */
    CompletableFuture<String> later(String text, long ms);

    /** Fails, which those who call it one way cannot see. */
    void tell(String text);

    /** The calls of tell, and the most calls of later that were under way at once. */
    Map<String, Integer> seen();

    /** The attachments of the request with that prefix; one like it comes back with the answer. */
    Map<String, String> attachments(String prefix);
}
