package com.github.meshferry.client;

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;

/** A small agent: it keeps what it is told, answers what it was given, and can be killed and started again. */
final class FakeAgent implements AutoCloseable {
    final int port;
    final int outboundPort;
    private HttpServer server;
    private ServerSocket outbound;
    private ExecutorService threads;

    // guarded by this
    private String boot = "";
    private int revision = 1;
    private List<String> providers = Collections.emptyList();
    private List<String> fallback = Collections.emptyList();
    private final Map<String, String> published = new TreeMap<>(); // body by URL
    private final List<String> log = new ArrayList<>();
    private int leases;
    private int refuse;
    private String token = ""; // asked of every request; empty: none

    FakeAgent() throws IOException {
        port = freePort();
        outboundPort = freePort();
    }

    private static int freePort() throws IOException {
        try (ServerSocket s = new ServerSocket(0, 1, InetAddress.getByName("127.0.0.1"))) {
            return s.getLocalPort();
        }
    }

    synchronized FakeAgent start(String boot) throws IOException {
        this.boot = boot;
        published.clear();
        threads = Executors.newCachedThreadPool(r -> {
            Thread t = new Thread(r, "fake agent");
            t.setDaemon(true);
            return t;
        });
        outbound = new ServerSocket();
        outbound.setReuseAddress(true);
        outbound.bind(new InetSocketAddress("127.0.0.1", outboundPort));
        ServerSocket listener = outbound;
        threads.execute(() -> serveOutbound(listener));
        server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 0);
        server.setExecutor(threads);
        server.createContext("/", this::serve);
        server.start();
        return this;
    }

    void kill() throws IOException {
        server.stop(0);
        outbound.close();
        threads.shutdownNow();
        try {
            threads.awaitTermination(10, TimeUnit.SECONDS); // a socket is closed when the last thread has left it
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
    }

    @Override
    public void close() throws IOException {
        kill();
    }

    private void serveOutbound(ServerSocket listener) {
        while (!listener.isClosed()) {
            try (Socket s = listener.accept()) {
                if (s.getInputStream().read() == 0xda) {
                    s.getOutputStream().write(new byte[] {(byte) 0xda, (byte) 0xbb, 0x22, 20});
                }
            } catch (IOException e) {
                // the next one
            }
        }
    }

    String outboundUrl() {
        return "dubbo://[::ffff:127.0.0.1]:" + outboundPort + "/com.a.Foo?interface=com.a.Foo";
    }

    synchronized void hand(List<String> providers, String... fallback) {
        this.providers = providers;
        this.fallback = Arrays.asList(fallback);
        revision++;
        notifyAll();
    }

    synchronized void refuse(int status) {
        refuse = status;
    }

    synchronized FakeAgent token(String token) {
        this.token = token;
        return this;
    }

    synchronized List<String> published() {
        return new ArrayList<>(published.keySet());
    }

    synchronized int leases() {
        return leases;
    }

    synchronized List<String> log() {
        return new ArrayList<>(log);
    }

    private void serve(HttpExchange x) throws IOException {
        String body = text(x.getRequestBody());
        String path = x.getRequestURI().getPath();
        synchronized (this) {
            log.add(path);
            if (!token.isEmpty() && !("Bearer " + token).equals(x.getRequestHeaders().getFirst("Authorization"))) {
                answer(x, 401, "{\"error\":{\"code\":\"unauthorised\",\"message\":\"the token is missing or wrong\"}}");
                return;
            }
            if (refuse != 0 && x.getRequestMethod().equals("POST") && !path.endsWith("lease")) {
                answer(x, refuse, "{\"error\":{\"code\":\"invalid\",\"message\":\"no\"}}");
                return;
            }
        }
        switch (path) {
            case "/v1/publish":
            case "/v1/unpublish":
                change(x, path.endsWith("/publish"), Fields.text(Fields.object(Json.read(body)), "url"));
                break;
            case "/v1/subscribe":
                answer(x, 200, document());
                break;
            case "/v1/watch":
                watch(x, x.getRequestURI().getQuery());
                break;
            case "/v1/lease":
                lease(x);
                break;
            default:
                answer(x, 200, "{}");
        }
    }

    private void change(HttpExchange x, boolean publish, String url) throws IOException {
        synchronized (this) {
            if (publish) {
                published.put(url, url);
            } else {
                published.remove(url);
            }
        }
        answer(x, 200, "{\"agent\":\"" + boot + "\",\"state\":\"" + (publish ? "published" : "unpublished") + "\",\"reason\":\"\",\"publications\":[]}");
    }

    private void watch(HttpExchange x, String query) throws IOException {
        synchronized (this) {
            if (!query.contains("agent=" + boot + "&")) {
                answer(x, 410, "{\"error\":{\"code\":\"gone\",\"message\":\"another boot\"}}");
                return;
            }
            try {
                while (query.contains("revision=" + revision + "&")) {
                    wait();
                }
            } catch (InterruptedException e) {
                return;
            }
        }
        answer(x, 200, document());
    }

    private synchronized String document() {
        Map<String, Object> d = new TreeMap<>();
        d.put("subscription", "s-1");
        d.put("agent", boot);
        d.put("revision", revision);
        d.put("state", providers.isEmpty() ? "empty" : "ready");
        d.put("mode", "mesh");
        d.put("urls", Collections.singletonMap("providers", providers.isEmpty() ? Collections.singletonList("empty://0.0.0.0/com.a.Foo?category=providers") : providers));
        d.put("fallback", fallback);
        return Json.write(d);
    }

    private void lease(HttpExchange x) throws IOException {
        x.sendResponseHeaders(200, 0);
        synchronized (this) {
            leases++;
        }
        try (OutputStream out = x.getResponseBody()) {
            while (true) {
                out.write(("{\"agent\":\"" + boot + "\",\"revision\":1}\n").getBytes(StandardCharsets.UTF_8));
                out.flush();
                Thread.sleep(50);
            }
        } catch (InterruptedException e) {
            // killed
        } finally {
            synchronized (this) {
                leases--;
            }
        }
    }

    static String text(InputStream in) throws IOException {
        ByteArrayOutputStream text = new ByteArrayOutputStream();
        byte[] buffer = new byte[4096];
        for (int n = in.read(buffer); n >= 0; n = in.read(buffer)) {
            text.write(buffer, 0, n);
        }
        return new String(text.toByteArray(), StandardCharsets.UTF_8);
    }

    private static void answer(HttpExchange x, int status, String body) throws IOException {
        byte[] bytes = body.getBytes(StandardCharsets.UTF_8);
        x.sendResponseHeaders(status, bytes.length);
        x.getResponseBody().write(bytes);
        x.close();
    }
}
