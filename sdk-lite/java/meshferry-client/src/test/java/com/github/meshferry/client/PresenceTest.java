package com.github.meshferry.client;

import static org.junit.jupiter.api.Assertions.assertEquals;

import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class PresenceTest {
    /** One observation every 0.5 s: b both answer, c control only, o outbound only, - neither; what away is after each. */
    @ParameterizedTest
    @CsvSource({
        "bbbb, ....", "---, ..A", "-o--, ....", "-c---, ....A", "---b, ..AA", "---bb, ..AA.", "---b-bb, ..AAAA.", "---ccc, ..AAAA", "---bb--, ..AA...",
        "---bb---, ..AA...A"})
    void table(String seen, String away) {
        Presence p = new Presence();
        StringBuilder got = new StringBuilder();
        for (int i = 0; i < seen.length(); i++) {
            char c = seen.charAt(i);
            p.observe(Long.MAX_VALUE - 1 + i * 500_000_000L, c == 'b' || c == 'c', c == 'b' || c == 'o'); // nanoTime may wrap
            got.append(p.away() ? 'A' : '.');
        }
        assertEquals(away, got.toString());
    }
}
