package com.github.meshferry.client;

import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** One service that this process serves. */
public final class Publication extends Request {
    private Publication(Map<String, Object> fields) {
        super(fields);
    }

    private Publication set(String key, Object value) {
        return new Publication(with(fields, key, value));
    }

    /** A whole provider URL, as Dubbo writes it into a registry. */
    public static Publication url(String url) {
        DubboUrl.parse(url);
        return new Publication(new LinkedHashMap<>()).set("url", url);
    }

    /** By fields: the interface, and the local port, usually 20880. */
    public static Publication of(String name, int port) {
        return new Publication(new LinkedHashMap<>()).set("interface", name).set("port", port);
    }

    public Publication application(String application) {
        return set("application", application);
    }

    public Publication group(String group) {
        return set("group", group);
    }

    public Publication version(String version) {
        return set("version", version);
    }

    /** "dubbo" or "tri". */
    public Publication protocol(String protocol) {
        return set("protocol", protocol);
    }

    public Publication host(String host) {
        return set("host", host);
    }

    /** Default: the interface. */
    public Publication path(String path) {
        return set("path", path);
    }

    public Publication methods(List<String> methods) {
        return set("methods", copy(methods));
    }

    public Publication params(Map<String, String> params) {
        return set("params", new LinkedHashMap<>(params));
    }

    /** Names of registries in the agent's configuration. Default: all. */
    public Publication registries(List<String> registries) {
        return set("registries", copy(registries));
    }

    /**
     * How long the agent waits for the registry before it answers "pending", in milliseconds. Default: the
     * agent's, 2 s.
     */
    public Publication waiting(long ms) {
        return set("wait", ms + "ms");
    }

    /** How long its answer may be late for that. */
    int patience() {
        String wait = text("wait");
        return wait.isEmpty() ? 2000 : Integer.parseInt(wait.substring(0, wait.length() - 2));
    }

    /** Protocol, service key, path and local port. */
    @Override
    String identity() {
        if (fields.containsKey("url")) {
            DubboUrl u = DubboUrl.parse(text("url"));
            return u.protocol + " " + u.service() + " " + u.path + " " + u.port;
        }
        return text("protocol") + " " + serviceKey() + " " + (text("path").isEmpty() ? text("interface") : text("path")) + " " + text("port");
    }
}
