package org.example;

public class Refused extends Exception {
    private static final long serialVersionUID = 1;

    private final int code;

    public Refused(String text, int code) {
        super(text);
        this.code = code;
    }

    public int getCode() {
        return code;
    }
}
