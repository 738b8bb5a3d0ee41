package org.example;

import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.function.Function;

/**
 * The remote control of the demo: one path over HTTP on loopback, at a port of its own choice or at {@code -Ddemo.http.port}.
 * Nothing of it is needed to use Dubbo or an agent.
 */
public final class Control {
    private Control() {}

    /** Serves until the process ends, and says on standard output that it does. */
    public static void serve(String role, String path, Function<String, String> answer) throws IOException {
        HttpServer server = HttpServer.create(new InetSocketAddress(InetAddress.getByName("127.0.0.1"), Integer.getInteger("demo.http.port", 0)), 0);
        server.createContext(path, exchange -> {
            String query = exchange.getRequestURI().getQuery();
            byte[] body = answer.apply(query == null ? "" : query).getBytes(StandardCharsets.UTF_8);
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.start();
        System.out.println("{\"ready\":\"" + role + "\",\"http\":\"127.0.0.1:" + server.getAddress().getPort() + "\"}");
    }

    public static int number(String query, String name, int otherwise) {
        for (String pair : query.split("&")) {
            if (pair.startsWith(name + "=")) {
                return Integer.parseInt(pair.substring(name.length() + 1));
            }
        }
        return otherwise;
    }

    public static String quoted(String text) {
        StringBuilder b = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\') {
                b.append('\\').append(c);
            } else if (c < ' ') {
                b.append(String.format("\\u%04x", (int) c));
            } else {
                b.append(c);
            }
        }
        return b.append('"').toString();
    }
}
