package com.github.meshferry.client;

import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** One service that this process calls. Group and version may be "*" or a comma list. */
public final class Consumer extends Request {
    private Consumer(Map<String, Object> fields) {
        super(fields);
    }

    private Consumer set(String key, Object value) {
        return new Consumer(with(fields, key, value));
    }

    /** A whole consumer URL. */
    public static Consumer url(String url) {
        DubboUrl.parse(url);
        return new Consumer(new LinkedHashMap<>()).set("url", url);
    }

    /** By fields. */
    public static Consumer of(String name) {
        return new Consumer(new LinkedHashMap<>()).set("interface", name);
    }

    public Consumer application(String application) {
        return set("application", application);
    }

    public Consumer group(String group) {
        return set("group", group);
    }

    public Consumer version(String version) {
        return set("version", version);
    }

    public Consumer protocol(String protocol) {
        return set("protocol", protocol);
    }

    /** timeout, loadbalance, … */
    public Consumer params(Map<String, String> params) {
        return set("params", new LinkedHashMap<>(params));
    }

    /** Default: those of the URL, else "providers". */
    public Consumer categories(List<String> categories) {
        return set("categories", copy(categories));
    }

    /** Protocol and service key as asked. */
    @Override
    String identity() {
        if (fields.containsKey("url")) {
            DubboUrl u = DubboUrl.parse(text("url"));
            return u.parameter("protocol") + " " + u.service();
        }
        return text("protocol") + " " + serviceKey();
    }
}
