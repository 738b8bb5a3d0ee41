package com.github.meshferry.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** An agent that accepts connections, reads, and never answers: no call waits for it longer than its time-out. */
@Timeout(60)
class HangTest {
    private static final int TIMEOUT = 300;
    /** Much more than the time-out and what the client adds, much less than for ever. */
    private static final long PROMPT = 10_000_000_000L;

    /** What was asked, and whether the client has ended that connection. */
    private final Map<String, Boolean> ended = new ConcurrentHashMap<>();

    private void serve(ServerSocket server) {
        while (!server.isClosed()) {
            try {
                Socket s = server.accept();
                daemon(() -> hang(s));
            } catch (IOException e) {
                return;
            }
        }
    }

    private void hang(Socket s) {
        String path = "";
        try (Socket socket = s) {
            byte[] bytes = new byte[4096];
            int n = socket.getInputStream().read(bytes);
            path = new String(bytes, 0, Math.max(n, 0), "UTF-8").split(" ", 3)[1];
            ended.putIfAbsent(path, false);
            while (n >= 0) {
                n = socket.getInputStream().read(bytes);
            }
        } catch (IOException | RuntimeException e) {
            // a connection that was reset has ended, too
        }
        ended.put(path, true);
    }

    private static void daemon(Runnable task) {
        Thread t = new Thread(task, "hanging agent");
        t.setDaemon(true);
        t.start();
    }

    private static Set<Thread> ours() {
        return Thread.getAllStackTraces().keySet().stream().filter(t -> t.getName().startsWith("meshferry")).collect(Collectors.toSet());
    }

    private interface Call {
        void run() throws Exception;
    }

    private static void prompt(String what, Call call) throws Exception {
        long begin = System.nanoTime();
        call.run();
        long took = System.nanoTime() - begin;
        System.out.println(what + " of an agent that hangs ended after " + took / 1_000_000 + " ms, time-out " + TIMEOUT + " ms");
        assertTrue(took < PROMPT, what + " took " + took / 1_000_000 + " ms");
    }

    @Test
    void everyCallHasATimeout() throws Exception {
        try (ServerSocket server = new ServerSocket(0, 50, InetAddress.getByName("127.0.0.1"))) {
            daemon(() -> serve(server));
            Client client = Client.open(new Options("127.0.0.1", server.getLocalPort(), "shop").timeout(TIMEOUT));
            assertEquals(1, ours().size());
            assertTrue(ours().iterator().next().isDaemon(), "a process that forgets to close must be able to end");
            Publication foo = Publication.of("com.a.Foo", 20880);
            prompt("publish", () -> assertEquals("pending (agent-away)", client.publish(foo.waiting(0)).toString()));
            prompt("subscribe", () -> assertFalse(client.subscribe(Consumer.of("com.a.Bar"), null).set().known()));
            prompt("unpublish", () -> client.unpublish(foo));
            for (String path : new String[] {"/v1/lease", "/v1/publish", "/v1/subscribe", "/healthz"}) {
                for (long end = System.nanoTime() + PROMPT; !ended.getOrDefault(path, false); Thread.sleep(5)) {
                    assertTrue(System.nanoTime() < end, path + " was asked and given up: " + ended);
                }
            }
            prompt("close", client::close);
            assertEquals(0, ours().size());
        }
    }
}
