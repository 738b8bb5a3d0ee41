package org.example;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.Closeable;
import java.io.File;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.DatagramSocket;
import java.net.HttpURLConnection;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.Deque;
import java.util.List;
import java.util.Scanner;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
import org.apache.dubbo.common.URL;
import org.apache.dubbo.common.Version;
import org.apache.dubbo.common.extension.ExtensionLoader;
import org.apache.dubbo.common.utils.NetUtils;
import org.apache.dubbo.rpc.Protocol;
import org.apache.dubbo.rpc.RpcException;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** Real applications with the Dubbo on this class path, each behind a real agent of its own. */
@Timeout(value = 4, unit = TimeUnit.MINUTES)
class MeshTest {
    private static File program;

    @TempDir
    Path dir;

    private final Deque<Closeable> running = new ArrayDeque<>();

    /** AGENT_PROGRAM names a program that is already there. */
    @BeforeAll
    static void build() throws Exception {
        String given = System.getenv("AGENT_PROGRAM");
        program = new File(given != null ? given : "../target/meshferry").getAbsoluteFile();
        if (given == null) {
            int status = new ProcessBuilder("go", "build", "-o", program.getPath(), "./cmd/meshferry").directory(new File("../../../..")).inheritIO().start().waitFor();
            assertEquals(0, status, "go build");
        }
    }

    @AfterEach
    void end() throws IOException {
        while (!running.isEmpty()) {
            running.pop().close();
        }
    }

    private final class Agent {
        final int control = freePort();
        final int outbound = freePort();
        final int inbound = freePort();
        final String name;
        final String host;
        Child process;

        Agent(String name, String host) throws Exception {
            this.name = name;
            this.host = host;
            start();
        }

        void start() throws Exception {
            process = keep(new Child(dir.resolve(name + ".log").toFile(), Arrays.asList(program.getPath(), "run", "--registry", "local://" + dir.resolve("registry"),
                    "--address", host, "--inbound", host + ":" + inbound, "--outbound", "127.0.0.1:" + outbound, "--control", "127.0.0.1:" + control,
                    "--control-socket", "", "--state-dir", state().toString())));
            eventually(name + " to be ready", () -> {
                assertTrue(process.alive(), () -> name + " ended:\n" + process.log());
                return get("/readyz") != null;
            });
        }

        Path state() {
            return dir.resolve("state-" + name);
        }

        String url() {
            return "mesh://127.0.0.1:" + control;
        }

        /** Null: no good answer. */
        String get(String path) {
            try {
                HttpURLConnection c = (HttpURLConnection) new java.net.URL("http://127.0.0.1:" + control + path).openConnection();
                c.setConnectTimeout(1000);
                c.setReadTimeout(2000);
                try (Scanner s = new Scanner(c.getInputStream(), "UTF-8").useDelimiter("\\A")) {
                    return s.hasNext() ? s.next() : "";
                }
            } catch (IOException e) {
                return null;
            }
        }

        boolean publishes(String name) {
            String services = get("/v1/services");
            return services != null && services.contains("\"workload\":\"" + name + "/") && services.contains("\"state\":\"published\"");
        }
    }

    private <T extends Closeable> T keep(T t) {
        running.push(t);
        return t;
    }

    private Child app(String name, Agent agent, int port) throws IOException {
        List<String> command = new ArrayList<>(Arrays.asList(System.getProperty("java.home") + "/bin/java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
                "-Duser.home=" + dir, "-Ddubbo.application.logger=slf4j", "-Dorg.slf4j.simpleLogger.defaultLogLevel=info", "-Ddubbo.service.shutdown.wait=500",
                "-DDUBBO_IP_TO_BIND=" + HOST, "-DDUBBO_IP_TO_REGISTRY=" + HOST));
        for (String pkg : Arrays.asList("lang", "util", "math", "time")) {
            command.add("--add-opens=java.base/java." + pkg + "=ALL-UNNAMED");
        }
        command.addAll(Arrays.asList("-cp", System.getProperty("java.class.path"), "org.example.ThinApp", name, agent.url(), String.valueOf(port)));
        Child child = keep(new Child(dir.resolve(name + ".log").toFile(), command));
        System.out.println("Dubbo " + Version.getVersion() + " " + name + ": " + child.line());
        return child;
    }

    private interface Check {
        boolean holds() throws Exception;
    }

    private static void eventually(String what, Check check) throws Exception {
        for (long end = System.nanoTime() + 40_000_000_000L; !check.holds(); Thread.sleep(20)) {
            assertTrue(System.nanoTime() < end, "waited in vain for " + what);
        }
    }

    private static int freePort() {
        try (ServerSocket s = new ServerSocket(0, 1, InetAddress.getByName("127.0.0.1"))) {
            return s.getLocalPort();
        } catch (IOException e) {
            throw new IllegalStateException(e);
        }
    }

    private static void delete(Path path) throws IOException {
        try (Stream<Path> files = Files.walk(path)) {
            for (Path p : (Iterable<Path>) files.sorted(Comparator.reverseOrder())::iterator) {
                Files.delete(p);
            }
        }
    }

    private static int count(String text, String part) {
        return text.split(part, -1).length - 1;
    }

    /** The address of the default route's interface: others come and go with tests beside this one. */
    private static final String HOST = host();

    private static String host() {
        try (DatagramSocket s = new DatagramSocket()) {
            s.connect(new InetSocketAddress("198.51.100.1", 9)); // sends nothing
            return s.getLocalAddress().getHostAddress();
        } catch (IOException | UncheckedIOException e) {
            return NetUtils.getLocalHost();
        }
    }

    private static final String ANSWER = "hello world, this is provider";

    /** The extension is one of the wrappers that this line of Dubbo puts around each protocol. */
    @Test
    @SuppressWarnings("deprecation") // the way to extensions that all lines have
    void availableCheck() {
        Protocol probe = ExtensionLoader.getExtensionLoader(Protocol.class).getExtension("probe");
        URL mesh = URL.valueOf("probe://127.0.0.1:1/org.example.Hello?registry=mesh&qos.enable=false");
        assertEquals("availablecheck is false", assertThrows(RpcException.class, () -> probe.refer(Hello.class, mesh)).getMessage());
        URL other = mesh.addParameter("registry", "zookeeper");
        assertEquals("availablecheck is null", assertThrows(RpcException.class, () -> probe.refer(Hello.class, other)).getMessage());
    }

    @Test
    void provider() throws Exception {
        Agent agent = new Agent("agent", HOST);
        Child provider = app("provider", agent, freePort());
        eventually("the publication", () -> agent.publishes("provider"));

        gap(agent);

        // An agent that lost everything is told again.
        agent.process.close();
        delete(agent.state());
        agent.start();
        eventually("the publication to be there again", () -> agent.publishes("provider"));

        // The end of a process is seen by its lease.
        provider.close();
        eventually("the publication to go", () -> !agent.publishes("provider"));

        Child second = app("second", agent, freePort());
        eventually("the other publication", () -> agent.publishes("second"));
        assertEquals("left 0", second.ask("stop"));
        assertTrue(!agent.publishes("second"), "it is still published when stop has returned");
    }

    /**
     * The agent is away while calls are made, too short for direct providers. By itself Dubbo 3 leaves the only address
     * alone for up to a minute after that.
     */
    private void gap(Agent agent) throws Exception {
        Child consumer = app("consumer", agent, 0);
        eventually("an answer", () -> consumer.ask("call").equals(ANSWER));
        agent.process.close();
        int failed = 0;
        for (long end = System.nanoTime() + 300_000_000L; System.nanoTime() < end; Thread.sleep(10)) {
            failed += consumer.ask("call").equals(ANSWER) ? 0 : 1;
        }
        assertTrue(failed > 0, "no call was made without agent");
        agent.start();
        long begin = System.nanoTime();
        eventually("answers after a restart", () -> consumer.ask("call").equals(ANSWER));
        long gap = (System.nanoTime() - begin) / 1_000_000;
        System.out.println("Dubbo " + Version.getVersion() + ": answers " + gap + " ms after the agent was back");
        assertTrue(gap < 15_000, gap + " ms");
        consumer.close();
    }

    @Test
    void consumer() throws Exception {
        Agent far = new Agent("far", HOST);
        Agent near = new Agent("near", "127.0.0.1");
        app("provider", far, freePort());
        eventually("the publication", () -> far.publishes("provider"));
        Child consumer = app("consumer", near, 0);
        assertEquals(ANSWER, consumer.ask("call"));
        assertTrue(near.get("/v1/services").contains("consumer/"), "it went by the agent");

        // Away: calls go on, to the direct provider.
        near.process.close();
        long begin = System.nanoTime();
        eventually("answers without agent", () -> consumer.ask("call").equals(ANSWER));
        System.out.println("Dubbo " + Version.getVersion() + ": answers " + (System.nanoTime() - begin) / 1_000_000 + " ms after the agent was killed");

        // A start without agent.
        Child second = app("consumer", near, 0);
        assertEquals(ANSWER, second.ask("call"));
        assertEquals(2, count(second.log(), "is away"), "each of the two said so once:\n" + second.log());

        // Back.
        near.start();
        eventually("both to come back", () -> count(near.get("/v1/services"), "consumer/") == 2);
        eventually("both to say so", () -> count(second.log(), " is back") == 2);
        assertEquals(ANSWER, second.ask("call"));

        assertEquals("left 0", second.ask("stop"));
        assertEquals("left 0", consumer.ask("stop"));
    }
}
