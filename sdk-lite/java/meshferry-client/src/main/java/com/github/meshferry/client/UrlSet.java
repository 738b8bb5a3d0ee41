package com.github.meshferry.client;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;

/** All that is known of one subscription at one time: whole, never a delta, and immutable. */
public final class UrlSet {
    static final UrlSet UNKNOWN = new UrlSet(0, Collections.emptyMap(), "", "", "agent-away", false, false);

    private final long version;
    private final Map<String, List<String>> urls;
    private final String state;
    private final String mode;
    private final String reason;
    private final boolean away;
    private final boolean direct;

    UrlSet(long version, Map<String, List<String>> urls, String state, String mode, String reason, boolean away, boolean direct) {
        this.version = version;
        this.urls = urls;
        this.state = state;
        this.mode = mode;
        this.reason = reason;
        this.away = away;
        this.direct = direct;
    }

    /** Grows with each change; 0: nothing has been heard yet. */
    public long version() {
        return version;
    }

    /** Whole lists by category: "providers", "configurators", "routers". */
    public Map<String, List<String>> urls() {
        return urls;
    }

    /** The URLs to call, without the empty:// that stands for none. */
    public List<String> providers() {
        List<String> providers = new ArrayList<>(urls.getOrDefault("providers", Collections.emptyList()));
        providers.removeIf(u -> u.startsWith("empty://"));
        return providers;
    }

    /** As the agent said last: "waiting", "ready", "empty", "protected"; empty: none has answered yet. */
    public String state() {
        return state;
    }

    /** "mesh": the agent's address; "direct": the agent hands out endpoints. */
    public String mode() {
        return mode;
    }

    public String reason() {
        return reason;
    }

    /** Control API and outbound address of the agent fail. */
    public boolean away() {
        return away;
    }

    /** These are the direct providers, because the agent is away or has just come back. */
    public boolean direct() {
        return direct;
    }

    /** It says something of providers, be it that there are none. */
    public boolean known() {
        return state.equals("empty") || !providers().isEmpty();
    }

    boolean same(UrlSet o) {
        return urls.equals(o.urls) && state.equals(o.state) && mode.equals(o.mode) && reason.equals(o.reason) && away == o.away && direct == o.direct;
    }
}
