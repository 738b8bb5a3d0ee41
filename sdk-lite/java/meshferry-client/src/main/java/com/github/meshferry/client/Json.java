package com.github.meshferry.client;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Reads and writes JSON (RFC 8259): an object is a {@link Map}, an array a {@link List}, a whole number a
 * {@link Long}, any other number a {@link Double}; true, false and null are themselves.
 */
final class Json {
    private static final int MAX_DEPTH = 64;

    private final String text;
    private int at;

    private Json(String text) {
        this.text = text;
    }

    /** One value and nothing behind it; throws {@link IllegalArgumentException} with the position otherwise. */
    static Object read(String text) {
        Json json = new Json(text);
        Object value = json.value(0);
        json.space();
        if (json.at < text.length()) {
            throw json.bad("text behind the value");
        }
        return value;
    }

    private Object value(int depth) {
        space();
        switch (peek()) {
            case '{':
                return object(deeper(depth));
            case '[':
                return array(deeper(depth));
            case '"':
                return string();
            case 't':
                return word("true", Boolean.TRUE);
            case 'f':
                return word("false", Boolean.FALSE);
            case 'n':
                return word("null", null);
            default:
                return number();
        }
    }

    /** The parser calls itself: a hostile text must not exhaust the stack. */
    private int deeper(int depth) {
        if (depth >= MAX_DEPTH) {
            throw bad("nested too deeply");
        }
        return depth + 1;
    }

    private Map<String, Object> object(int depth) {
        Map<String, Object> object = new LinkedHashMap<>();
        at++;
        space();
        if (taken('}')) {
            return object;
        }
        do {
            space();
            String key = string();
            space();
            if (!taken(':')) {
                throw bad("':' expected");
            }
            object.put(key, value(depth));
            space();
        } while (taken(','));
        if (!taken('}')) {
            throw bad("',' or '}' expected");
        }
        return object;
    }

    private List<Object> array(int depth) {
        List<Object> array = new ArrayList<>();
        at++;
        space();
        if (taken(']')) {
            return array;
        }
        do {
            array.add(value(depth));
            space();
        } while (taken(','));
        if (!taken(']')) {
            throw bad("',' or ']' expected");
        }
        return array;
    }

    private String string() {
        if (!taken('"')) {
            throw bad("'\"' expected");
        }
        StringBuilder s = new StringBuilder();
        for (char c = next(); c != '"'; c = next()) {
            if (c < ' ') {
                throw bad("control character in a string");
            }
            s.append(c == '\\' ? escaped() : c);
        }
        return s.toString();
    }

    private char escaped() {
        char c = next();
        switch (c) {
            case 'b':
                return '\b';
            case 'f':
                return '\f';
            case 'n':
                return '\n';
            case 'r':
                return '\r';
            case 't':
                return '\t';
            case 'u':
                int code = 0;
                for (int i = 0; i < 4; i++) {
                    int digit = Character.digit(next(), 16);
                    if (digit < 0) {
                        throw bad("bad \\u");
                    }
                    code = code * 16 + digit;
                }
                return (char) code;
            case '"':
            case '\\':
            case '/':
                return c;
            default:
                throw bad("bad escape");
        }
    }

    private Object number() {
        int begin = at;
        boolean whole = true;
        for (char c = peek(); c >= '0' && c <= '9' || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E'; c = peek()) {
            whole &= c >= '0' && c <= '9' || c == '-';
            at++;
        }
        String number = text.substring(begin, at);
        try {
            if (whole && number.length() < 19) {
                return Long.valueOf(number);
            }
            return Double.valueOf(number);
        } catch (NumberFormatException e) {
            at = begin;
            throw bad("no value");
        }
    }

    private Object word(String word, Object value) {
        if (!text.startsWith(word, at)) {
            throw bad("no value");
        }
        at += word.length();
        return value;
    }

    private void space() {
        while (at < text.length() && " \t\r\n".indexOf(text.charAt(at)) >= 0) {
            at++;
        }
    }

    /** The next character, or 0 at the end: no value begins with it. */
    private char peek() {
        return at < text.length() ? text.charAt(at) : 0;
    }

    private char next() {
        if (at >= text.length()) {
            throw bad("unexpected end");
        }
        return text.charAt(at++);
    }

    private boolean taken(char c) {
        if (peek() != c) {
            return false;
        }
        at++;
        return true;
    }

    private IllegalArgumentException bad(String why) {
        return new IllegalArgumentException("bad JSON at " + at + ": " + why);
    }

    /** Takes what {@link #read} gives, any {@link Iterable} and any {@link Number}; other things by their text. */
    static String write(Object value) {
        StringBuilder out = new StringBuilder();
        write(value, out);
        return out.toString();
    }

    private static void write(Object value, StringBuilder out) {
        if (value == null || value instanceof Boolean || value instanceof Number) {
            out.append(value);
        } else if (value instanceof Map) {
            String comma = "";
            out.append('{');
            for (Map.Entry<?, ?> e : ((Map<?, ?>) value).entrySet()) {
                quote(String.valueOf(e.getKey()), out.append(comma));
                write(e.getValue(), out.append(':'));
                comma = ",";
            }
            out.append('}');
        } else if (value instanceof Iterable) {
            String comma = "";
            out.append('[');
            for (Object item : (Iterable<?>) value) {
                write(item, out.append(comma));
                comma = ",";
            }
            out.append(']');
        } else {
            quote(value.toString(), out);
        }
    }

    private static void quote(String s, StringBuilder out) {
        out.append('"');
        for (int i = 0; i < s.length(); i++) {
            char c = s.charAt(i);
            if (c == '"' || c == '\\') {
                out.append('\\').append(c);
            } else if (c < ' ' || c == '\u2028' || c == '\u2029' || Character.isSurrogate(c) && !paired(s, i)) {
                out.append("\\u");
                for (int shift = 12; shift >= 0; shift -= 4) {
                    out.append(Character.forDigit(c >> shift & 15, 16));
                }
            } else {
                out.append(c);
            }
        }
        out.append('"');
    }

    /** Half a surrogate pair has no UTF-8. */
    private static boolean paired(String s, int i) {
        return Character.isHighSurrogate(s.charAt(i))
                ? i + 1 < s.length() && Character.isLowSurrogate(s.charAt(i + 1))
                : i > 0 && Character.isHighSurrogate(s.charAt(i - 1));
    }
}
