package com.github.meshferry.client;

/**
 * What the client itself must know of a Dubbo URL. The text is never rebuilt from it: agents compare URLs byte by
 * byte.
 */
final class DubboUrl {
    final String protocol;
    /** Without brackets; empty if there is none. */
    final String host;
    /** 0 if there is none. */
    final int port;
    final String path;
    private final String query;

    private DubboUrl(String protocol, String host, int port, String path, String query) {
        this.protocol = protocol;
        this.host = host;
        this.port = port;
        this.path = path;
        this.query = query;
    }

    /** Throws {@link IllegalArgumentException} if there is no protocol or the port is no number. */
    static DubboUrl parse(String raw) {
        int colon = raw.indexOf("://");
        if (colon <= 0) {
            throw new IllegalArgumentException("bad Dubbo URL: no protocol://: " + raw);
        }
        String rest = raw.substring(colon + 3);
        int question = rest.indexOf('?');
        String query = question < 0 ? "" : rest.substring(question + 1);
        rest = question < 0 ? rest : rest.substring(0, question);
        int slash = rest.indexOf('/');
        String path = slash < 0 ? "" : rest.substring(slash + 1);
        String authority = slash < 0 ? rest : rest.substring(0, slash);
        authority = authority.substring(authority.lastIndexOf('@') + 1);
        int end = authority.lastIndexOf(':');
        boolean noPort = end <= authority.lastIndexOf(']');
        String host = noPort ? authority : authority.substring(0, end);
        if (host.startsWith("[") && host.endsWith("]")) {
            host = host.substring(1, host.length() - 1);
        }
        return new DubboUrl(raw.substring(0, colon), host, noPort ? 0 : port(raw, authority.substring(end + 1)), path, query);
    }

    private static int port(String raw, String text) {
        try {
            int port = text.isEmpty() ? 0 : Integer.parseInt(text);
            if (port >= 0 && port <= 65535) {
                return port;
            }
        } catch (NumberFormatException e) {
            // the same answer as for a number out of range
        }
        throw new IllegalArgumentException("bad Dubbo URL: port is no number in 0..65535: " + raw);
    }

    String parameter(String key) {
        for (String pair : query.split("&")) {
            if (pair.startsWith(key) && pair.startsWith("=", key.length())) {
                return pair.substring(key.length() + 1);
            }
        }
        return "";
    }

    /** group/interface:version, empty parts left out. */
    String service() {
        String name = parameter("interface");
        return service(parameter("group"), name.isEmpty() ? path : name, parameter("version"));
    }

    static String service(String group, String name, String version) {
        return (group.isEmpty() ? "" : group + "/") + name + (version.isEmpty() || version.equals("0.0.0") ? "" : ":" + version);
    }
}
