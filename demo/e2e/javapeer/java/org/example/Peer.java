package org.example;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.Callable;
import org.apache.dubbo.config.ApplicationConfig;
import org.apache.dubbo.config.MethodConfig;
import org.apache.dubbo.config.ProtocolConfig;
import org.apache.dubbo.config.ReferenceConfig;
import org.apache.dubbo.config.RegistryConfig;
import org.apache.dubbo.config.ServiceConfig;
import org.apache.dubbo.config.bootstrap.DubboBootstrap;
import org.apache.dubbo.rpc.service.GenericService;

/**
 * A provider, a consumer or both, in the API that 2.7, 3.2 and 3.3 have in common. It takes its
 * settings as one JSON argument, says {"ready":true} when it is, answers each JSON line of its
 * standard input with one on its standard output, and ends with its standard input.
 */
public final class Peer {
    private static final ObjectMapper JSON = new ObjectMapper();

    private final JsonNode settings;
    private final Map<String, Object> references = new HashMap<>();
    private Greeter greeter;

    private Peer(JsonNode settings) {
        this.settings = settings;
    }

    public static void main(String[] args) throws Exception {
        PrintStream out = new PrintStream(System.out, true, "UTF-8");
        System.setOut(System.err); // the lines that programs read are ours alone
        Peer peer = new Peer(JSON.readTree(args[0]));
        try {
            peer.start();
        } catch (Throwable t) {
            t.printStackTrace();
            Runtime.getRuntime().halt(1); // threads of Dubbo would keep it alive
        }
        out.println("{\"ready\":true}");
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            JsonNode request = JSON.readTree(line);
            new Thread(() -> {
                String answer = peer.answer(request);
                synchronized (out) {
                    out.println(answer);
                }
            }).start();
        }
        Runtime.getRuntime().halt(0); // whoever started it is gone
    }

    private void start() {
        DubboBootstrap bootstrap = DubboBootstrap.getInstance().application(new ApplicationConfig(text("application")));
        if (!text("registry").isEmpty()) {
            RegistryConfig registry = new RegistryConfig(text("registry"));
            if (!text("registry").startsWith("mesh:")) {
                registry.setTimeout(20000);
            }
            bootstrap.registry(registry);
        }
        if (settings.path("port").asInt() > 0) {
            greeter = new Greeter(text("name"));
            bootstrap.protocol(new ProtocolConfig("dubbo", settings.path("port").asInt()));
            settings.path("services").forEach(s -> bootstrap.service(service(GreetService.class, greeter, s)));
            if (settings.path("features").asBoolean()) {
                Features features = new Features();
                settings.path("services").forEach(s -> {
                    bootstrap.service(service(FeatureService.class, features, s));
                    ServiceConfig<FollowService> follow = service(FollowService.class, features, s);
                    follow.getParameters().put("follow.0.callback", "true");
                    bootstrap.service(follow);
                });
            }
        }
        bootstrap.start();
    }

    private <T> ServiceConfig<T> service(Class<T> type, T implementation, JsonNode s) {
        ServiceConfig<T> service = new ServiceConfig<>();
        service.setInterface(type);
        service.setRef(implementation);
        service.setGroup(orNull(s.path("group").asText("")));
        service.setVersion(orNull(s.path("version").asText("")));
        service.setParameters(parameters(settings.path("params"), s.path("params")));
        // 2.7 takes two services of one interface for one if they have no names.
        service.setId(type.getName() + "/" + service.getGroup() + "/" + service.getVersion());
        return service;
    }

    private String text(String key) {
        return settings.path(key).asText("");
    }

    private static String orNull(String text) {
        return text.isEmpty() ? null : text;
    }

    private static Map<String, String> parameters(JsonNode... from) {
        Map<String, String> parameters = new HashMap<>();
        for (JsonNode one : from) {
            one.fields().forEachRemaining(e -> parameters.put(e.getKey(), e.getValue().asText()));
        }
        return parameters;
    }

    private String answer(JsonNode request) {
        Map<String, Object> answer = new LinkedHashMap<>();
        answer.put("id", request.path("id").asInt());
        try {
            if (request.path("do").asText().equals("stats")) {
                answer.put("stats", greeter.stats());
            } else if (request.path("do").asText().equals("use")) {
                answer.put("text", new Uses(this).use(request.path("what").asText(), request.path("group").asText(""), request.path("version").asText("")));
            } else {
                answer.put("calls", calls(request).entries());
            }
        } catch (Throwable t) {
            answer.put("error", t.toString());
        }
        try {
            return JSON.writeValueAsString(answer);
        } catch (Exception e) {
            return "{\"id\":" + request.path("id").asInt() + ",\"error\":\"answer cannot be written\"}";
        }
    }

    private Ledger calls(JsonNode request) throws Exception {
        GreetService service = reference(GreetService.class, request.path("group").asText(""), request.path("version").asText(""));
        Callable<String> call = call(service, request.path("method").asText(), request.path("arg").asText());
        Ledger ledger = new Ledger();
        int rate = request.path("rate").asInt();
        if (rate > 0) {
            ledger.load(rate, request.path("ms").asLong(), call);
        } else {
            ledger.series(request.path("n").asInt(1), call);
        }
        return ledger;
    }

    private static Callable<String> call(GreetService service, String method, String arg) {
        switch (method) {
            case "sayHello":
                return () -> service.sayHello(arg);
            case "slow":
                return () -> service.slow(Long.parseLong(arg));
            case "fail":
                return () -> service.fail(arg);
            case "echo":
                byte[] data = new byte[Integer.parseInt(arg)];
                return () -> service.echo(data).length + " bytes";
            default:
                throw new IllegalArgumentException("no method " + method);
        }
    }

    /** A reference is made once for each service. */
    synchronized <T> T reference(Class<T> type, String group, String version) {
        return type.cast(references.computeIfAbsent(type.getName() + "/" + group + "/" + version, key -> {
            ReferenceConfig<T> reference = new ReferenceConfig<>();
            reference.setInterface(type);
            if (type == FeatureService.class) {
                MethodConfig tell = new MethodConfig();
                tell.setName("tell");
                tell.setReturn(false);
                reference.setMethods(Collections.singletonList(tell));
            }
            return configured(reference, group, version).get();
        }));
    }

    synchronized GenericService generic(String type, String group, String version) {
        return (GenericService) references.computeIfAbsent("generic/" + type + "/" + group + "/" + version, key -> {
            ReferenceConfig<GenericService> reference = new ReferenceConfig<>();
            reference.setInterface(type);
            reference.setGeneric("true");
            return configured(reference, group, version).get();
        });
    }

    private <T> ReferenceConfig<T> configured(ReferenceConfig<T> reference, String group, String version) {
        reference.setGroup(orNull(group));
        reference.setVersion(orNull(version));
        reference.setTimeout(settings.path("timeout").asInt(3000));
        if (settings.path("retries").asInt(-1) >= 0) {
            reference.setRetries(settings.path("retries").asInt());
        }
        reference.setCheck(false);
        reference.setUrl(orNull(text("url")));
        reference.setParameters(parameters(settings.path("params")));
        return reference;
    }
}
