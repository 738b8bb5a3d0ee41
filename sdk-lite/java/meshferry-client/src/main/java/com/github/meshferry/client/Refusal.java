package com.github.meshferry.client;

import java.util.Map;

/**
 * An answer of the agent that the same call would get again. Source: its error body
 * {@code {"error":{"code","message","detail"}}}.
 */
public final class Refusal extends Exception {
    private static final long serialVersionUID = 1;

    private final int status;
    private final String code;

    Refusal(int status, String code, String message) {
        super("agent refused (" + status + " " + code + ")" + (message.isEmpty() ? "" : ": " + message));
        this.status = status;
        this.code = code;
    }

    /** Reads an error body; anything else is quoted. */
    static Refusal of(int status, String body) {
        try {
            Map<?, ?> error = (Map<?, ?>) ((Map<?, ?>) Json.read(body)).get("error");
            return new Refusal(status, error.get("code").toString(), String.valueOf(error.get("message")));
        } catch (IllegalArgumentException | ClassCastException | NullPointerException e) {
            return new Refusal(status, "unknown", body.substring(0, Math.min(body.length(), 200)).trim());
        }
    }

    /** The HTTP status. */
    public int status() {
        return status;
    }

    /** The agent's word for the reason: "owned", "invalid". */
    public String code() {
        return code;
    }
}
