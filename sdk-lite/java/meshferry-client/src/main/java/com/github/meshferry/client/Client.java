package com.github.meshferry.client;

import java.io.IOException;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/**
 * The client of the control API of a Meshferry agent, for one workload. It keeps the wishes of the application (what it
 * publishes, what it subscribes to) and makes the agent know them: at once if the agent is there, and again whenever an
 * agent with another boot id answers. An agent that is away is no error: the result is "pending" with the reason
 * "agent-away", and the wish is kept. Only a {@link Refusal} of the agent is an error, and then nothing is kept.
 *
 * <p>Invariants:
 *
 * <ul>
 *   <li>One daemon thread owns all state and all sockets; a second one, there only when needed, calls listeners and
 *       writes files. After {@link #close} neither is left, and no connection.
 *   <li>Every call has a time-out, every retry a cap and jitter.
 *   <li>A {@link UrlSet} is whole and never changes once handed out.
 *   <li>A subscription has the agent's URLs while the agent is there. When control API and outbound address have both
 *       failed for one second it has the direct providers instead (from memory, or from disk if the agent was never
 *       seen), and the agent's URLs again after both answered twice.
 * </ul>
 *
 * <p>Safe for concurrent use.
 */
public final class Client implements AutoCloseable {
    private static final int PROBE = 500;
    private static final int DOUBT = 200;
    private static final int GOODBYE = 2_000;

    // immutable
    private final Options options;
    private final String workload;
    private final Loop loop;
    private final Link link;
    private final ThreadPoolExecutor courier;
    /** True in the thread that calls listeners: it must not wait for itself. */
    private final ThreadLocal<Boolean> inListener = ThreadLocal.withInitial(() -> false);

    // guarded by itself
    private final Map<String, Topic> topics = new LinkedHashMap<>();

    // owned by the loop
    private final Map<String, Export> exports = new LinkedHashMap<>();
    private final Presence presence = new Presence();
    private final Backoff leasing = new Backoff(100, 3_000);
    private final Backoff probing = new Backoff(PROBE, 2_000);
    private boolean leased;
    private boolean refusedLease;
    private boolean watching;
    private boolean closing;

    // written by the loop
    private volatile String boot = "";
    private volatile boolean away;

    private Client(Options options) throws IOException {
        this.options = options;
        workload = options.workload != null ? options.workload : plain(options.application) + "/" + random();
        loop = new Loop("meshferry-" + options.host + ":" + options.port, options.log);
        link = new Link(loop, options, workload);
        // What a listener does is the application's: Dubbo makes threads there, and these must find its classes.
        ClassLoader classes = Thread.currentThread().getContextClassLoader();
        courier = new ThreadPoolExecutor(1, 1, 5, TimeUnit.SECONDS, new LinkedBlockingQueue<>(), task -> {
            Thread t = new Thread(() -> {
                inListener.set(true);
                task.run();
            }, "meshferry-notify");
            t.setDaemon(true);
            t.setContextClassLoader(classes);
            return t;
        });
        courier.allowCoreThreadTimeOut(true);
    }

    /** Begins to hold the lease. The agent need not be there. It errs only if the system gives no more resources. */
    public static Client open(Options options) throws IOException {
        Client c = new Client(options);
        c.loop.execute(() -> {
            c.holdLease();
            c.loop.after(DOUBT, c::watchPresence); // an agent that hangs answers nothing for long
        });
        return c;
    }

    /** What a workload name may hold, and of it what leaves room for the random part within 128. */
    private static String plain(String application) {
        String plain = application.replaceAll("[^A-Za-z0-9._:@/-]", "-");
        return plain.substring(0, Math.min(plain.length(), 90));
    }

    /** Nothing secret, only new with every start: a secure one costs a start much more. */
    private static String random() {
        return Long.toHexString(System.currentTimeMillis()) + "-" + Long.toHexString(ThreadLocalRandom.current().nextLong());
    }

    /** The name under which the agent knows this process. */
    public String workload() {
        return workload;
    }

    /** Control API and outbound address of the agent fail. */
    public boolean away() {
        return away;
    }

    /**
     * Makes a publication known, or changes the one of the same identity (protocol, service key, path, port). It is
     * told to every new agent, until {@link #unpublish}.
     */
    public Result publish(Publication p) throws Refusal, InterruptedException {
        return change(p, false);
    }

    /** Takes a publication back. Given a URL, the agent removes only what still has that content. */
    public Result unpublish(Publication p) throws Refusal, InterruptedException {
        return change(p, true);
    }

    private Result change(Publication p, boolean withdrawn) throws Refusal, InterruptedException {
        String identity = p.identity();
        CompletableFuture<Result> asked = new CompletableFuture<>();
        boolean open = loop.execute(() -> exports.computeIfAbsent(identity, id -> new Export(this, id)).want(p, withdrawn, asked));
        Result r = !open ? null : outcome(asked, patience() + p.patience());
        return r == null ? Result.AWAY : r;
    }

    /** Null: nobody answered in time. */
    private <T> T outcome(CompletableFuture<T> asked, long ms) throws Refusal, InterruptedException {
        try {
            return asked.get(ms + 1000, TimeUnit.MILLISECONDS);
        } catch (TimeoutException e) {
            return null; // the client was closed, or calls before this one took all the time
        } catch (ExecutionException e) {
            if (e.getCause() instanceof Refusal) {
                throw (Refusal) e.getCause();
            }
            throw new IllegalStateException(e.getCause());
        }
    }

    /**
     * Asks the agent what to call for a service and follows it until the subscription is closed. Without agent the set
     * is empty until one answers or, a second later, direct providers are taken from disk. The listener may be null; it
     * is called from another thread with every set of which something is known, see {@link Subscription#tell}.
     */
    public Subscription subscribe(Consumer c, Listener listener) throws Refusal, InterruptedException {
        String identity = c.identity();
        Topic topic;
        Subscription s;
        synchronized (topics) {
            topic = topics.get(identity);
            if (topic == null) {
                topic = open(identity, c);
            }
            s = topic.join(listener);
        }
        try {
            outcome(topic.asked, patience());
        } catch (Refusal | InterruptedException e) {
            synchronized (topics) {
                topics.remove(identity, topic);
            }
            throw e;
        }
        return s;
    }

    private Topic open(String identity, Consumer c) {
        Store store = new Store(options.directory, options.application, identity);
        Answer kept = Answer.NONE;
        try {
            kept = store.load();
        } catch (IOException e) {
            log().warn("kept direct providers cannot be read: " + e);
        }
        Topic topic = new Topic(this, identity, c, store, kept);
        topics.put(identity, topic);
        if (!loop.execute(topic::drive)) {
            topic.asked.complete(null); // closed
        }
        return topic;
    }

    /** A subscription of the topic was closed. */
    void left(Topic topic) {
        synchronized (topics) {
            if (topic.used() || !topics.remove(topic.identity, topic)) {
                return;
            }
        }
        loop.execute(() -> topic.end(() -> {}));
    }

    /** Takes everything back, within 2 s, and ends the lease. Calls after the first do nothing. */
    @Override
    public void close() {
        CompletableFuture<Void> done = new CompletableFuture<>();
        if (loop.execute(() -> withdraw(done))) {
            try {
                done.get(GOODBYE, TimeUnit.MILLISECONDS);
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            } catch (ExecutionException | TimeoutException e) {
                log().debug("the agent was not told in time that the application stops");
            }
        }
        loop.execute(loop::end);
        courier.shutdownNow();
        try {
            loop.join(GOODBYE);
            if (!inListener.get()) {
                courier.awaitTermination(GOODBYE, TimeUnit.MILLISECONDS);
            }
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
    }

    private void withdraw(CompletableFuture<Void> done) {
        closing = true;
        List<CompletableFuture<?>> told = new ArrayList<>();
        for (Export e : new ArrayList<>(exports.values())) {
            Publication p = e.wanted();
            if (p != null) {
                CompletableFuture<Result> one = new CompletableFuture<>();
                told.add(one.exceptionally(refusal -> null));
                e.want(p, true, one);
            }
        }
        for (Topic t : all()) {
            CompletableFuture<Void> one = new CompletableFuture<>();
            told.add(one);
            t.end(() -> one.complete(null));
        }
        synchronized (topics) {
            topics.clear();
        }
        CompletableFuture.allOf(told.toArray(new CompletableFuture<?>[0])).thenRun(() -> done.complete(null));
    }

    // What follows is for the loop, and for exports and topics on it.

    Loop loop() {
        return loop;
    }

    Link link() {
        return link;
    }

    Log log() {
        return options.log;
    }

    String boot() {
        return boot;
    }

    long patience() {
        return options.timeout;
    }

    /** Nobody would answer: a call would only cost its time-out. */
    boolean unreachable() {
        return away && !leased;
    }

    /** Runs a task that may take its time. */
    void courier(Runnable task) {
        try {
            courier.execute(task);
        } catch (RejectedExecutionException e) {
            log().debug("closed"); // nobody listens any more
        }
    }

    void over(String identity, Export e) {
        exports.remove(identity, e);
    }

    private List<Topic> all() {
        synchronized (topics) {
            return new ArrayList<>(topics.values());
        }
    }

    /** Notes which agent answered. */
    void hear(String agent) {
        if (agent.isEmpty() || agent.equals(boot)) {
            return;
        }
        log().info("agent " + options.host + ":" + options.port + " answers: " + agent + ", workload " + workload);
        boot = agent;
        // Not at once: the caller is in the middle of something.
        loop.execute(() -> {
            new ArrayList<>(exports.values()).forEach(Export::renew);
            all().forEach(Topic::renew);
        });
    }

    /** Keeps one lease stream open, whatever becomes of agents. */
    private void holdLease() {
        link.lease(agent -> {
            leasing.reset();
            hear(agent);
            if (!leased) {
                leased = true;
                drive();
            }
        }, failure -> {
            leased = false;
            if (failure.refusal != null && !refusedLease) {
                refusedLease = true;
                log().warn("no lease: " + failure.getMessage());
            }
            log().debug("lease not held: " + failure.getMessage());
            loop.after(leasing.pause(), this::holdLease);
            watchPresence();
        });
    }

    private void drive() {
        new ArrayList<>(exports.values()).forEach(Export::drive);
        all().forEach(Topic::drive);
    }

    /** Decides whether the agent is away. While the lease lives nothing is probed. */
    private void watchPresence() {
        if (!watching) {
            watching = true;
            probe();
        }
    }

    private void probe() {
        if (closing || leased && !away) {
            presence.sure();
            watching = false; // the end of the lease begins it again
            return;
        }
        Set<String> outbound = new TreeSet<>();
        for (Topic t : all()) {
            outbound.addAll(t.outbound());
        }
        new Probe(outbound, leased).begin();
    }

    /** One observation of control API and outbound addresses. */
    private final class Probe {
        private final Set<String> addresses;
        private final boolean held;
        private int open;
        private boolean control;
        private boolean outbound = true;

        Probe(Set<String> addresses, boolean held) {
            this.addresses = addresses;
            this.held = held;
        }

        void begin() {
            open = addresses.size() + 1;
            for (String address : addresses) {
                link.answers(address, PROBE, good -> {
                    outbound &= good;
                    ended();
                });
            }
            if (held) {
                control = true;
                ended();
            } else {
                link.healthy(PROBE, good -> {
                    control = good;
                    ended();
                });
            }
        }

        private void ended() {
            if (--open > 0) {
                return;
            }
            // A process that only provides has nobody to fall back to.
            observed(control, addresses.isEmpty() ? control : outbound);
        }
    }

    private void observed(boolean control, boolean outbound) {
        if (presence.observe(System.nanoTime(), control, outbound)) {
            probing.reset();
            turned();
        }
        boolean relaxed = presence.away() && !presence.returning();
        loop.after(relaxed ? probing.pause() : DOUBT, this::probe);
    }

    /** The agent went away, or came back. */
    private void turned() {
        away = presence.away();
        drive();
        String address = options.host + ":" + options.port;
        if (!away) {
            log().info("agent " + address + " is back");
            return;
        }
        int direct = 0;
        List<Topic> all = all();
        for (Topic t : all) {
            direct += t.set().direct() ? 1 : 0;
        }
        log().warn("agent " + address + " is away, this application goes on without it until it is back"
                + (exports.isEmpty() ? "" : "; consumers find its services for as long as the registry keeps the agent's session")
                + (all.isEmpty() ? "" : "; of its " + all.size() + " references " + direct + " call the providers that were known last")
                + (direct == all.size() ? "" : ", the others fail"));
    }
}
