package com.github.meshferry.client;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;

/** What became of a publication. */
public final class Result {
    /** Kept and told to the agent when it is there. The reason is this client's, never an agent's. */
    static final Result AWAY = new Result("", "pending", "agent-away", new ArrayList<>());

    private final String agent;
    private final String state;
    private final String reason;
    private final List<String> advertised;

    private Result(String agent, String state, String reason, List<String> advertised) {
        this.agent = agent;
        this.state = state;
        this.reason = reason;
        this.advertised = Collections.unmodifiableList(advertised);
    }

    static Result of(String body) {
        Map<String, Object> m = Fields.object(Json.read(body));
        List<String> advertised = new ArrayList<>();
        for (Object p : Fields.list(m, "publications")) {
            for (Object url : Fields.list(Fields.object(p), "advertised")) {
                advertised.add(String.valueOf(url));
            }
        }
        return new Result(Fields.text(m, "agent"), Fields.text(m, "state"), Fields.text(m, "reason"), advertised);
    }

    /** The boot id of the agent that answered; empty: none did. */
    public String agent() {
        return agent;
    }

    /** "published", "pending", "unpublished", "superseded". */
    public String state() {
        return state;
    }

    /** Why it is pending: "registry-away", "port-closed", "conflict", "settling"; "agent-away" is this client's. */
    public String reason() {
        return reason;
    }

    /** The URLs that stand in registries. */
    public List<String> advertised() {
        return advertised;
    }

    public boolean pending() {
        return state.equals("pending");
    }

    @Override
    public String toString() {
        return state + (reason.isEmpty() ? "" : " (" + reason + ")");
    }
}
