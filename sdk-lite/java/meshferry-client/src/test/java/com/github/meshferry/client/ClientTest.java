package com.github.meshferry.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.function.BooleanSupplier;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

@Timeout(60)
class ClientTest {
    private static final Publication FOO = Publication.url("dubbo://10.0.0.5:20880/com.a.Foo?interface=com.a.Foo&application=shop&side=provider");
    private static final Consumer CALLS_FOO = Consumer.url("consumer://10.0.0.5/com.a.Foo?interface=com.a.Foo&application=shop&side=consumer");
    private static final String DIRECT = "dubbo://10.0.0.9:20880/com.a.Foo?interface=com.a.Foo";

    @TempDir
    Path directory;

    private FakeAgent agent;
    private Client client;
    private final List<String> warnings = new CopyOnWriteArrayList<>();

    @BeforeEach
    void begin() throws IOException {
        agent = new FakeAgent();
    }

    /** Whatever a test did: nothing of the client is left. */
    @AfterEach
    void nothingIsLeft() throws Exception {
        client.close();
        client.close();
        eventually("all threads to end", () -> Thread.getAllStackTraces().keySet().stream().noneMatch(t -> t.getName().startsWith("meshferry")));
        agent.close();
    }

    private Client open() throws IOException {
        return open("");
    }

    private Client open(String token) throws IOException {
        client = Client.open(new Options("127.0.0.1", agent.port, "shop").token(token).directory(directory).log(new Log() {
            @Override
            public void debug(String text) {}

            @Override
            public void info(String text) {}

            @Override
            public void warn(String text) {
                warnings.add(text);
            }
        }));
        return client;
    }

    private static void eventually(String what, BooleanSupplier happened) throws InterruptedException {
        for (long end = System.nanoTime() + 20_000_000_000L; !happened.getAsBoolean(); Thread.sleep(5)) {
            assertTrue(System.nanoTime() < end, "waited in vain for: " + what);
        }
    }

    private static UrlSet next(BlockingQueue<UrlSet> sets) throws InterruptedException {
        UrlSet set = sets.poll(20, TimeUnit.SECONDS);
        assertTrue(set != null, "no set came");
        return set;
    }

    @Test
    void publishes() throws Exception {
        agent.start("b1");
        open();
        Result r = client.publish(FOO);
        assertEquals("published b1", r + " " + r.agent());
        assertEquals(Collections.singletonList(FOO.text("url")), agent.published());
        assertEquals("unpublished", client.unpublish(FOO).state());
        assertEquals(Collections.emptyList(), agent.published());
        eventually("the lease", () -> agent.leases() == 1);
    }

    /** The token goes with every request, also with those that are held: the watch and the lease. */
    @Test
    void sendsTheToken() throws Exception {
        agent.token("s3cret/+=").start("b1").hand(Collections.singletonList(agent.outboundUrl()));
        open("s3cret/+=");
        assertEquals("published", client.publish(FOO).state());
        BlockingQueue<UrlSet> sets = new LinkedBlockingQueue<>();
        Subscription s = client.subscribe(CALLS_FOO, sets::add);
        s.tell();
        next(sets);
        eventually("the lease", () -> agent.leases() == 1);
        eventually("the watch", () -> agent.log().contains("/v1/watch"));
        agent.hand(Collections.singletonList(agent.outboundUrl() + "&group=g"));
        assertEquals(Collections.singletonList(agent.outboundUrl() + "&group=g"), next(sets).providers());
    }

    /** A wrong token is a refusal that says so, not an agent that is away. */
    @Test
    void aWrongTokenIsARefusal() throws Exception {
        agent.token("s3cret").start("b1");
        open("wrong");
        Refusal r = assertThrows(Refusal.class, () -> client.publish(FOO));
        assertEquals("401 unauthorised", r.status() + " " + r.code());
    }

    @Test
    void takesEverythingBackAtTheEnd() throws Exception {
        agent.start("b1");
        open();
        client.publish(FOO);
        client.subscribe(CALLS_FOO, null);
        client.close();
        assertEquals(Collections.emptyList(), agent.published());
        assertTrue(agent.log().contains("/v1/unsubscribe"));
        eventually("the lease to end", () -> agent.leases() == 0);
        assertEquals("pending (agent-away)", client.publish(FOO).toString());
    }

    @Test
    void aRefusalIsAnErrorAndNothingIsKept() throws Exception {
        agent.start("b1");
        open();
        client.publish(FOO);
        agent.refuse(422);
        Refusal r = assertThrows(Refusal.class, () -> client.publish(FOO.waiting(7)));
        assertEquals("422 invalid", r.status() + " " + r.code());
        assertThrows(Refusal.class, () -> client.subscribe(CALLS_FOO, null));
        agent.refuse(0);
        agent.kill();
        agent.start("b2");
        eventually("what was accepted to be published again", () -> agent.published().size() == 1);
        assertFalse(agent.log().contains("/v1/watch"));
    }

    @Test
    void tellsANewAgentEverything() throws Exception {
        agent.start("b1").hand(Collections.singletonList(agent.outboundUrl()));
        open();
        client.publish(FOO);
        BlockingQueue<UrlSet> sets = new LinkedBlockingQueue<>();
        Subscription s = client.subscribe(CALLS_FOO, sets::add);
        s.tell();
        s.tell();
        assertEquals(Collections.singletonList(agent.outboundUrl()), next(sets).providers());
        agent.kill();
        agent.start("b2").hand(Arrays.asList(agent.outboundUrl(), agent.outboundUrl() + "&group=g"));
        eventually("the publication", () -> agent.published().size() == 1);
        for (UrlSet set = next(sets); set.providers().size() != 2; set = next(sets)) { // perhaps away for a moment
            assertTrue(set.known());
        }
    }

    @Test
    void followsChanges() throws Exception {
        agent.start("b1").hand(Collections.singletonList(agent.outboundUrl()));
        open();
        BlockingQueue<UrlSet> sets = new LinkedBlockingQueue<>();
        Subscription s = client.subscribe(CALLS_FOO, sets::add);
        Subscription second = client.subscribe(CALLS_FOO, null);
        s.tell();
        assertEquals("ready", next(sets).state());
        second.close();
        agent.hand(Collections.emptyList());
        assertEquals("empty []", next(sets).state() + " " + s.set().providers());
        agent.hand(Collections.singletonList(agent.outboundUrl()));
        assertEquals("ready", next(sets).state());
        s.close();
        eventually("unsubscribe", () -> agent.log().contains("/v1/unsubscribe"));
    }

    @Test
    void aListenerThatThrowsIsToldAgain() throws Exception {
        agent.start("b1").hand(Collections.singletonList(agent.outboundUrl()));
        open();
        BlockingQueue<UrlSet> sets = new LinkedBlockingQueue<>();
        int[] calls = {0};
        client.subscribe(CALLS_FOO, set -> {
            if (calls[0]++ == 0) {
                throw new IllegalStateException("not now");
            }
            sets.add(set);
        });
        assertEquals("ready", next(sets).state());
        assertEquals(1, warnings.size());
    }

    @Test
    void callsDirectProvidersWhileTheAgentIsAway() throws Exception {
        agent.start("b1").hand(Collections.singletonList(agent.outboundUrl()), DIRECT);
        open();
        BlockingQueue<UrlSet> sets = new LinkedBlockingQueue<>();
        client.subscribe(CALLS_FOO, sets::add);
        assertFalse(next(sets).direct());
        agent.kill();
        UrlSet away = next(sets);
        assertEquals("[" + DIRECT + "] true true", away.providers() + " " + away.away() + " " + away.direct());
        eventually("a warning", () -> warnings.size() == 1);
        agent.start("b2");
        UrlSet back = next(sets);
        while (back.direct()) {
            back = next(sets);
        }
        assertEquals(Collections.singletonList(agent.outboundUrl()), back.providers());
        assertEquals(1, warnings.size(), warnings::toString);
    }

    @Test
    void startsWithoutAgent() throws Exception {
        agent.start("b1").hand(Collections.singletonList(agent.outboundUrl()), DIRECT);
        open().subscribe(CALLS_FOO, null);
        eventually("the file", () -> directory.toFile().list((d, n) -> n.endsWith(".json")).length == 1);
        client.close();
        agent.kill();

        open();
        assertEquals("pending (agent-away)", client.publish(FOO).toString());
        Subscription s = client.subscribe(CALLS_FOO, null);
        assertEquals(Collections.singletonList(DIRECT), s.await(20_000).providers());
        agent.start("b2");
        eventually("the agent's URL", () -> s.set().providers().equals(Collections.singletonList(agent.outboundUrl())));
        eventually("the publication", () -> agent.published().size() == 1);
        assertEquals(1, warnings.size(), warnings::toString);
    }

    @Test
    void damagedFileIsNoStop() throws Exception {
        agent.start("b1").hand(Collections.singletonList(agent.outboundUrl()), DIRECT);
        open().subscribe(CALLS_FOO, null);
        eventually("the file", () -> directory.toFile().list((d, n) -> n.endsWith(".json")).length == 1);
        client.close();
        for (String name : directory.toFile().list()) {
            assertEquals("rw-------", java.nio.file.attribute.PosixFilePermissions.toString(Files.getPosixFilePermissions(directory.resolve(name))));
            Files.write(directory.resolve(name), "{\"urls\":[".getBytes());
        }
        assertEquals("ready", open().subscribe(CALLS_FOO, null).set().state());
        assertEquals(1, warnings.size(), warnings::toString);
    }

    @Test
    void manyPublications() throws Exception {
        agent.start("b1");
        open();
        for (int i = 0; i < 300; i++) {
            client.publish(Publication.url("dubbo://h:20880/com.a.F" + i + "?interface=com.a.F" + i));
        }
        agent.kill();
        agent.start("b2");
        eventually("all of them", () -> agent.published().size() == 300);
    }
}
