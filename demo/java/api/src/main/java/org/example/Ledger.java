package org.example;

import java.util.function.Supplier;
import java.util.function.UnaryOperator;

/** Makes calls one after the other and writes a line of JSON for each: the answer to {@code /call?n=10}. */
public final class Ledger {
    private Ledger() {}

    public static String of(String query, Supplier<String> call) {
        return of(query, call, answer -> "");
    }

    /** The same, with more fields for an answer. */
    public static String of(String query, Supplier<String> call, UnaryOperator<String> more) {
        StringBuilder lines = new StringBuilder();
        for (int i = 1; i <= Control.number(query, "n", 1); i++) {
            long begin = System.nanoTime();
            String outcome;
            try {
                String answer = call.get();
                outcome = "\"ok\":true,\"answer\":" + Control.quoted(answer) + more.apply(answer);
            } catch (RuntimeException e) {
                outcome = "\"ok\":false,\"error\":" + Control.quoted(e.toString());
            }
            double ms = (System.nanoTime() - begin) / 1000 / 1000.0;
            lines.append("{\"n\":").append(i).append(",\"ms\":").append(ms).append(',').append(outcome).append("}\n");
        }
        return lines.toString();
    }
}
