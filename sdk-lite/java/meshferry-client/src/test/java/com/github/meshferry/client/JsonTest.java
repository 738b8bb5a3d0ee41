package com.github.meshferry.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.util.Arrays;
import java.util.Collections;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class JsonTest {
    @ParameterizedTest
    @ValueSource(strings = {"{}", "[]", "null", "true", "false", "0", "-7", "1795177776835", "1.5", "\"\"", "\"a\\\"b\\\\c\"",
            "{\"a\":[1,{\"b\":null}],\"c\":\"d\"}", "\"\\u0001\"", "\"ü€😀\"", "\"\\ud83d\""})
    void writesWhatItRead(String text) {
        assertEquals(text, Json.write(Json.read(text)));
    }

    @ParameterizedTest
    @CsvSource(delimiter = '|', quoteCharacter = '`', value = {
        "` [ 1 , 2 ] `|[1,2]", "\"\\u00e9\\n\\t\\/\"|`\"é\\u000a\\u0009/\"`", "1e3|1000.0", "99999999999999999999|1.0E20", "\"\\ud83d\\ude00\"|\"😀\""})
    void reads(String text, String want) {
        assertEquals(want, Json.write(Json.read(text)));
    }

    @ParameterizedTest
    @ValueSource(strings = {"", "{", "[", "[1", "[1,", "{\"a\"", "{\"a\":", "{\"a\":1", "{a:1}", "{\"a\":1,}", "[,]", "\"", "\"\\", "\"\\u12", "\"\\x\"",
            "\"\n\"", "tru", "nul", "-", "1.2.3", "1 2", "{}x", "'a'", "+"})
    void refuses(String text) {
        assertThrows(IllegalArgumentException.class, () -> Json.read(text));
    }

    @Test
    void writesLists() {
        assertEquals("{\"a\":[\"b\",1,true,null]}", Json.write(Collections.singletonMap("a", Arrays.asList("b", 1, true, null))));
    }

    @Test
    void depthIsBounded() {
        String deep = String.join("", Collections.nCopies(100_000, "["));
        assertThrows(IllegalArgumentException.class, () -> Json.read(deep));
    }

    /** Whatever comes, it reads or says why not. */
    @Test
    void garbage() {
        Random random = new Random(1);
        String seeds = "{}[]\",:\\u0019tfn-+.eE \t\n";
        for (int i = 0; i < 20_000; i++) {
            StringBuilder text = new StringBuilder();
            for (int n = random.nextInt(12); n >= 0; n--) {
                text.append(seeds.charAt(random.nextInt(seeds.length())));
            }
            try {
                Object value = Json.read(text.toString());
                assertEquals(Json.write(value), Json.write(Json.read(Json.write(value))));
            } catch (IllegalArgumentException e) {
                // refused
            }
        }
    }
}
