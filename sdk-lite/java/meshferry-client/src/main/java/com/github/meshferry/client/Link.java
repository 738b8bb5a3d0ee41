package com.github.meshferry.client;

import java.io.IOException;
import java.io.UnsupportedEncodingException;
import java.net.InetSocketAddress;
import java.net.URLEncoder;
import java.nio.ByteBuffer;
import java.util.ArrayDeque;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Queue;
import java.util.function.BiConsumer;
import java.util.function.Consumer;

/** Makes the calls of the control API on a {@link Loop}. Everything here is for the loop's thread. */
final class Link {
    /** An answer other than "yes". */
    static final class Failure extends Exception {
        private static final long serialVersionUID = 1;

        /** Null: no answer, or one that says "later". */
        final transient Refusal refusal;
        /** 410: boot id or subscription are no more. */
        final boolean gone;

        private Failure(String message, Refusal refusal, boolean gone, Throwable cause) {
            super(message, cause);
            this.refusal = refusal;
            this.gone = gone;
        }
    }

    /** A call under way. */
    final class Call {
        private Exchange exchange;
        private boolean queued;
        private boolean over;

        void cancel() {
            if (exchange != null) {
                exchange.cancel();
            }
            finish();
        }

        private void finish() {
            if (!over) {
                over = true;
                if (queued) {
                    running--;
                    next();
                }
            }
        }
    }

    /** How many calls of {@link #later} run at once: agents limit what one user may ask. */
    private static final int MAX_RUNNING = 4;
    private static final int MAX_LINE = 4 << 10;
    /**
     * A Dubbo 2 heartbeat: request, two-way, event, hessian2, body null. A process that hangs still accepts
     * connections, so a connection proves nothing. Source: org.apache.dubbo.remoting.exchange.codec.ExchangeCodec.
     */
    private static final byte[] HEARTBEAT = {(byte) 0xda, (byte) 0xbb, (byte) 0xe2, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 'N'};

    private final Loop loop;
    private final Options options;
    private final String workload;
    private final Queue<Runnable> waiting = new ArrayDeque<>();
    private int running;

    Link(Loop loop, Options options, String workload) {
        this.loop = loop;
        this.options = options;
        this.workload = workload;
    }

    /** "publish", "unpublish", "subscribe" or "unsubscribe"; then gets the body of a good answer, or why there is none. */
    Call call(String what, Request request, long patience, BiConsumer<String, Failure> then) {
        Call call = new Call();
        start(call, "POST", "/v1/" + what, body(request), patience, then);
        return call;
    }

    /** The same, when few others are under way. */
    Call later(String what, Request request, long patience, BiConsumer<String, Failure> then) {
        Call call = new Call();
        waiting.add(() -> {
            if (!call.over) {
                running++;
                call.queued = true;
                start(call, "POST", "/v1/" + what, body(request), patience, then);
            }
        });
        next();
        return call;
    }

    private void next() {
        while (running < MAX_RUNNING && !waiting.isEmpty()) {
            waiting.poll().run();
        }
    }

    /** Waits until the answer differs from the one given. The empty body: it did not. */
    Call watch(Answer a, long wait, BiConsumer<String, Failure> then) {
        Call call = new Call();
        String path = "/v1/watch?subscription=" + encode(a.subscription) + "&agent=" + encode(a.agent)
                + "&revision=" + encode(a.revision) + "&wait=" + wait + "ms";
        start(call, "GET", path, null, wait + options.timeout, then);
        return call;
    }

    private String body(Request request) {
        Map<String, Object> body = new LinkedHashMap<>(request.fields);
        if (!workload.isEmpty()) {
            body.put("workload", workload);
            body.put("client", "java");
        }
        return Json.write(body);
    }

    private void start(Call call, String method, String path, String body, long patience, BiConsumer<String, Failure> then) {
        call.exchange = exchange(method, path, body, patience, new Http.Reply() {
            @Override
            void ended(int status, String text, IOException error) {
                call.finish();
                if (status == 304) {
                    then.accept("", null);
                } else if (status >= 200 && status < 300) {
                    then.accept(text, null);
                } else {
                    then.accept(null, failure(status, text, error));
                }
            }
        });
    }

    private Exchange exchange(String method, String path, String body, long patience, Exchange.Reader reader) {
        String host = options.host.indexOf(':') >= 0 && !options.host.startsWith("[") ? "[" + options.host + "]" : options.host;
        byte[] request = Http.request(method, path, host + ":" + options.port, options.token, body);
        return new Exchange(loop, new InetSocketAddress(options.host, options.port), request, patience, reader);
    }

    private static Failure failure(int status, String text, IOException error) {
        if (error != null) {
            return new Failure("agent away: " + error.getMessage(), null, false, error);
        }
        Refusal refusal = Refusal.of(status, text);
        boolean later = status == 408 || status == 429 || status >= 500;
        return new Failure(refusal.getMessage(), later || status == 410 ? null : refusal, status == 410, refusal);
    }

    /** An answer that is not understood. */
    static Failure unclear(String what, RuntimeException e) {
        return new Failure("answer to " + what + " is not understood: " + e.getMessage(), null, false, e);
    }

    /**
     * Holds the lease. Gives the boot id of every line to heard, and ends when the stream does or was silent for too
     * long: lines come every 5 s.
     */
    Call lease(Consumer<String> heard, Consumer<Failure> then) {
        Map<String, Object> body = new LinkedHashMap<>();
        body.put("workload", workload);
        body.put("ttl", options.ttl + "ms");
        Call call = new Call();
        call.exchange = exchange("POST", "/v1/lease", Json.write(body), options.timeout, new Http.Reply() {
            @Override
            public boolean read(ByteBuffer in) throws IOException {
                super.read(in);
                for (String line = line(); line != null; line = line()) {
                    hear(line);
                }
                return false;
            }

            private void hear(String line) throws IOException {
                if (line.length() > MAX_LINE) {
                    throw new IOException("a line of the lease is longer than " + MAX_LINE);
                }
                try {
                    String agent = Fields.text(Fields.object(Json.read(line)), "agent");
                    if (!agent.isEmpty()) {
                        call.exchange.patience(Math.max(options.timeout, options.ttl / 2));
                        heard.accept(agent);
                    }
                } catch (IllegalArgumentException e) {
                    throw new IOException("a line of the lease is not understood: " + e.getMessage(), e);
                }
            }

            @Override
            void ended(int status, String text, IOException error) {
                then.accept(status == 200 ? failure(0, "", new IOException("the lease ended")) : failure(status, text, error));
            }
        });
        return call;
    }

    /** Whether the control API answers at all, whatever it answers. */
    void healthy(long patience, Consumer<Boolean> then) {
        exchange("GET", "/healthz", null, patience, reader(in -> true, then));
    }

    /** Whether a Dubbo listener answers a heartbeat; the address is "host port". */
    void answers(String address, long patience, Consumer<Boolean> then) {
        int space = address.indexOf(' ');
        InetSocketAddress to = new InetSocketAddress(address.substring(0, space), Integer.parseInt(address.substring(space + 1)));
        new Exchange(loop, to, HEARTBEAT.clone(), patience, reader(in -> in.get(0) == HEARTBEAT[0], then));
    }

    private interface Check {
        boolean good(ByteBuffer in);
    }

    /** Ends with the first bytes. */
    private static Exchange.Reader reader(Check check, Consumer<Boolean> then) {
        return new Exchange.Reader() {
            private boolean good;

            @Override
            public boolean read(ByteBuffer in) {
                good = check.good(in);
                return true;
            }

            @Override
            public void ended(IOException error) {
                then.accept(good);
            }
        };
    }

    private static String encode(String s) {
        try {
            return URLEncoder.encode(s, "UTF-8");
        } catch (UnsupportedEncodingException e) {
            throw new IllegalStateException(e); // every Java has UTF-8
        }
    }
}
