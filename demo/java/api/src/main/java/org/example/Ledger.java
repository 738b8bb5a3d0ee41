package org.example;

import java.util.function.Supplier;

/** Makes calls one after the other and writes a line of JSON for each: the answer to {@code /call?n=10}. */
public final class Ledger {
    private Ledger() {}

    public static String of(String query, Supplier<String> call) {
        StringBuilder lines = new StringBuilder();
        for (int i = 1; i <= Control.number(query, "n", 1); i++) {
            long begin = System.nanoTime();
            String outcome;
            try {
                outcome = "\"ok\":true,\"answer\":" + Control.quoted(call.get());
            } catch (RuntimeException e) {
                outcome = "\"ok\":false,\"error\":" + Control.quoted(e.toString());
            }
            double ms = (System.nanoTime() - begin) / 1000 / 1000.0;
            lines.append("{\"n\":").append(i).append(",\"ms\":").append(ms).append(',').append(outcome).append("}\n");
        }
        return lines.toString();
    }
}
