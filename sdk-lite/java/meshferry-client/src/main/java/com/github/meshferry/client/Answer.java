package com.github.meshferry.client;

import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;

/** What an agent says of a subscription. It is immutable. */
final class Answer {
    static final Answer NONE = new Answer("", "", "", "", "", "", Collections.emptyMap(), Collections.emptyList());

    final String subscription;
    /** Boot id. */
    final String agent;
    /** A number that is only ever sent back. */
    final String revision;
    final String state;
    final String mode;
    final String reason;
    /** By category. */
    final Map<String, List<String>> urls;
    /** Direct providers. */
    final List<String> fallback;

    private Answer(String subscription, String agent, String revision, String state, String mode, String reason,
            Map<String, List<String>> urls, List<String> fallback) {
        this.subscription = subscription;
        this.agent = agent;
        this.revision = revision;
        this.state = state;
        this.mode = mode;
        this.reason = reason;
        this.urls = urls;
        this.fallback = fallback;
    }

    static Answer of(String body) {
        Map<String, Object> m = Fields.object(Json.read(body));
        Map<String, List<String>> urls = new LinkedHashMap<>();
        Map<String, Object> byCategory = Fields.object(m.get("urls"));
        for (String category : byCategory.keySet()) {
            urls.put(category, texts(byCategory, category));
        }
        return new Answer(Fields.text(m, "subscription"), Fields.text(m, "agent"), Fields.text(m, "revision"), Fields.text(m, "state"),
                Fields.text(m, "mode"), Fields.text(m, "reason"), Collections.unmodifiableMap(urls), texts(m, "fallback"));
    }

    private static List<String> texts(Map<String, Object> object, String key) {
        List<String> texts = new ArrayList<>();
        for (Object o : Fields.list(object, key)) {
            texts.add(String.valueOf(o));
        }
        return Collections.unmodifiableList(texts);
    }

    /**
     * This answer, with what the one before it said where this one says nothing: an agent that knows nothing yet
     * does not make that wrong.
     */
    Answer after(Answer before) {
        Map<String, List<String>> all = new LinkedHashMap<>(urls);
        if (before.urls.containsKey("providers")) {
            all.putIfAbsent("providers", before.urls.get("providers"));
        }
        boolean waiting = state.equals("waiting") && fallback.isEmpty();
        return new Answer(subscription, agent, revision, state, mode, reason, Collections.unmodifiableMap(all),
                waiting ? before.direct() : fallback);
    }

    /** The providers to call without agent. */
    List<String> direct() {
        if (fallback.isEmpty() && mode.equals("direct")) {
            return urls.getOrDefault("providers", Collections.emptyList());
        }
        return fallback;
    }

    /**
     * The addresses of the agent's data plane that it names, as host and port of their URLs. Endpoints that are
     * handed out individually stand among the direct ones.
     */
    Set<String> outbound() {
        Set<String> addresses = new TreeSet<>();
        if (!mode.equals("direct")) {
            for (String url : urls.getOrDefault("providers", Collections.emptyList())) {
                DubboUrl u = fallback.contains(url) ? null : DubboUrl.parse(url);
                if (u != null && u.port != 0) {
                    addresses.add(u.host + " " + u.port);
                }
            }
        }
        return addresses;
    }

    /** Whether a start without agent would have the same from both. */
    boolean keepsLike(Answer other) {
        return urls.equals(other.urls) && fallback.equals(other.fallback);
    }

    /** What {@link #of} reads, for a file. */
    String toJson() {
        Map<String, Object> m = new LinkedHashMap<>();
        m.put("state", state);
        m.put("mode", mode);
        m.put("urls", urls);
        m.put("fallback", fallback);
        return Json.write(m);
    }
}
