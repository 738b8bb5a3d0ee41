package com.github.meshferry.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.sun.net.httpserver.HttpServer;
import java.io.File;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.TestFactory;

/**
 * Makes every request of the contract that this client can make, compares what is sent, and reads every answer. Source:
 * sdk-lite/contract/README.md.
 */
class ContractTest {
    private static final File CONTRACT = new File("../../contract");
    private static final Set<String> REPLAYED = new HashSet<>();

    private static String fill(String text) {
        return text.replaceAll("\"\\$\\{revision(\\d*)\\}\"", "4$1").replaceAll("\\$\\{revision(\\d*)\\}", "4$1").replaceAll("\\$\\{subscription(\\d*)\\}", "s-$1")
                .replaceAll("\\$\\{agent\\}", "b1").replaceAll("\\$\\{[^}]*\\}", "x");
    }

    @TestFactory
    Stream<DynamicTest> pairs() throws IOException {
        File[] files = CONTRACT.listFiles((dir, name) -> name.endsWith(".json"));
        Assumptions.assumeTrue(files != null && files.length > 0, "the contract is not beside this module");
        List<DynamicTest> tests = new ArrayList<>();
        for (File file : files) {
            String text = fill(new String(Files.readAllBytes(file.toPath()), StandardCharsets.UTF_8));
            for (Object o : (List<?>) Json.read(text)) {
                Map<String, Object> pair = Fields.object(o);
                tests.add(DynamicTest.dynamicTest(file.getName() + "/" + pair.get("name"), () -> replay(pair)));
            }
        }
        return tests.stream();
    }

    @AfterAll
    static void allCallsWereReplayed() {
        if (!REPLAYED.isEmpty()) {
            assertEquals(new HashSet<>(Arrays.asList("publish", "unpublish", "subscribe", "unsubscribe", "watch", "lease")), REPLAYED);
        }
    }

    /** How a call ended. */
    private static final class Outcome {
        final String body;
        final Link.Failure failure;

        Outcome(String body, Link.Failure failure) {
            this.body = body;
            this.failure = failure;
        }
    }

    private static void replay(Map<String, Object> pair) throws Exception {
        Map<String, Object> request = Fields.object(pair.get("request"));
        Map<String, Object> response = Fields.object(pair.get("response"));
        String path = Fields.text(request, "path");
        int question = path.indexOf('?');
        String call = (question < 0 ? path : path.substring(0, question)).replace("/v1/", "");
        boolean known = Arrays.asList("publish", "unpublish", "subscribe", "unsubscribe", "lease").contains(call) && request.get("method").equals("POST")
                || call.equals("watch") && path.contains("agent=") && path.contains("revision=");
        boolean odd = request.containsKey("text") || request.containsKey("padding") || request.containsKey("headers");
        Assumptions.assumeTrue(known && !odd, "not a request of this client");

        CompletableFuture<String> sent = new CompletableFuture<>();
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 0);
        server.createContext("/", x -> {
            sent.complete(x.getRequestMethod() + " " + x.getRequestURI().getPath() + "\n" + FakeAgent.text(x.getRequestBody()));
            int status = ((Long) response.get("status")).intValue();
            byte[] body = body(response).getBytes(StandardCharsets.UTF_8);
            x.sendResponseHeaders(status, status == 304 ? -1 : body.length);
            x.getResponseBody().write(body);
            x.close();
        });
        server.start();
        Loop loop = new Loop("contract", Log.NONE);
        try {
            List<String> heard = new ArrayList<>();
            Outcome outcome = make(loop, server.getAddress().getPort(), call, request, path, heard).get(20, TimeUnit.SECONDS);
            assertEquals(request.get("method") + " /v1/" + call, sent.get().substring(0, sent.get().indexOf('\n')));
            if (request.containsKey("body")) {
                assertEquals(request.get("body"), Json.read(sent.get().substring(sent.get().indexOf('\n'))));
            }
            check(call, response, outcome, heard);
            REPLAYED.add(call);
        } finally {
            loop.execute(loop::end);
            loop.join(5_000);
            server.stop(0);
        }
    }

    private static String body(Map<String, Object> response) {
        if (!response.containsKey("lines")) {
            return response.containsKey("body") ? Json.write(response.get("body")) : "";
        }
        StringBuilder lines = new StringBuilder();
        for (Object line : Fields.list(response, "lines")) {
            lines.append(Json.write(line)).append('\n');
        }
        return lines.toString();
    }

    private static CompletableFuture<Outcome> make(Loop loop, int port, String call, Map<String, Object> request, String path, List<String> heard) {
        CompletableFuture<Outcome> done = new CompletableFuture<>();
        Map<String, Object> fields = Fields.object(request.get("body"));
        Options options = new Options("127.0.0.1", port, "shop");
        loop.execute(() -> {
            switch (call) {
                case "watch":
                    Map<String, Object> answer = new HashMap<>(query(path));
                    new Link(loop, options, "").watch(Answer.of(Json.write(answer)), 50, (body, failure) -> done.complete(new Outcome(body, failure)));
                    break;
                case "lease":
                    String ttl = Fields.text(fields, "ttl");
                    if (!ttl.isEmpty()) {
                        options.ttl(ttl.endsWith("ms") ? Integer.parseInt(ttl.replace("ms", "")) : 1000 * Integer.parseInt(ttl.replace("s", "")));
                        fields.put("ttl", options.ttl + "ms"); // the same time
                    } else {
                        fields.put("ttl", "15000ms"); // the default, which this client always names
                    }
                    new Link(loop, options, Fields.text(fields, "workload")).lease(heard::add, failure -> done.complete(new Outcome(null, failure)));
                    break;
                default:
                    new Link(loop, options, "").call(call, new Request(new LinkedHashMap<>(fields)) {
                        @Override
                        String identity() {
                            return "";
                        }
                    }, 5_000, (body, failure) -> done.complete(new Outcome(body, failure)));
            }
        });
        return done;
    }

    private static Map<String, String> query(String path) {
        Map<String, String> query = new HashMap<>();
        for (String pair : path.substring(path.indexOf('?') + 1).split("&")) {
            query.put(pair.substring(0, pair.indexOf('=')), pair.substring(pair.indexOf('=') + 1));
        }
        return query;
    }

    private static void check(String call, Map<String, Object> response, Outcome outcome, List<String> heard) {
        int status = ((Long) response.get("status")).intValue();
        Map<String, Object> body = Fields.object(response.get("body"));
        if (call.equals("lease") && status == 200) {
            assertEquals("b1", heard.get(0));
            assertEquals(Fields.list(response, "lines").size(), heard.size());
        } else if (status == 304) {
            assertEquals("", outcome.body);
        } else if (status < 300) {
            assertNull(outcome.failure);
            read(call, body, outcome.body);
        } else if (status == 410) {
            assertTrue(outcome.failure.gone);
        } else if (status == 429 || status >= 500) {
            assertNull(outcome.failure.refusal);
        } else {
            assertNotNull(outcome.failure.refusal, outcome.failure::getMessage);
            assertEquals(status, outcome.failure.refusal.status());
            assertEquals(Fields.text(Fields.object(body.get("error")), "code"), outcome.failure.refusal.code());
        }
    }

    private static void read(String call, Map<String, Object> want, String body) {
        if (call.endsWith("publish")) {
            Result r = Result.of(body);
            assertEquals(Arrays.asList(want.get("agent"), want.get("state"), want.get("reason")), Arrays.asList(r.agent(), r.state(), r.reason()));
        } else if (!call.equals("unsubscribe")) {
            Answer a = Answer.of(body);
            assertEquals(Arrays.asList(want.get("agent"), want.get("state"), want.get("mode"), want.get("reason"), want.get("subscription")),
                    Arrays.asList(a.agent, a.state, a.mode, a.reason, a.subscription));
            assertEquals(want.get("urls"), a.urls);
            assertEquals(want.get("fallback"), a.fallback);
            assertEquals(want.get("revision").toString(), a.revision);
        }
    }
}
