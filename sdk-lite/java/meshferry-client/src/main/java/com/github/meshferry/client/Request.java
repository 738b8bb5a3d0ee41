package com.github.meshferry.client;

import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * A service as one side names it to the agent: by a whole Dubbo URL or by fields. It is immutable; fields that are
 * not set are filled by the agent. {@link Publication} is what this process serves, {@link Consumer} what it calls.
 */
abstract class Request {
    final Map<String, Object> fields;

    Request(Map<String, Object> fields) {
        this.fields = Collections.unmodifiableMap(fields);
    }

    static Map<String, Object> with(Map<String, Object> fields, String key, Object value) {
        Map<String, Object> more = new LinkedHashMap<>(fields);
        more.put(key, value);
        return more;
    }

    static List<String> copy(List<String> list) {
        return Collections.unmodifiableList(new ArrayList<>(list));
    }

    final String text(String key) {
        Object value = fields.get(key);
        return value == null ? "" : value.toString();
    }

    final String serviceKey() {
        return DubboUrl.service(text("group"), text("interface"), text("version"));
    }

    /** What tells requests of one workload apart; all else is content. */
    abstract String identity();
}
