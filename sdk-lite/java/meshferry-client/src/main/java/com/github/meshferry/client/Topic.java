package com.github.meshferry.client;

import java.io.IOException;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.function.BiConsumer;

/**
 * What all subscriptions of one identity share: it asks the agent, follows its answer, and decides what is handed out.
 *
 * <p>The agent's URLs while it is there; the direct providers while it is away; what there was while nothing is known.
 */
final class Topic {
    private static final int WATCH = 30_000;
    /** Direct providers change without a new revision. */
    private static final long REFRESH = 60_000_000_000L;
    private static final int RETRY_LISTENER = 5_000;

    // immutable
    private final Client client;
    final String identity;
    private final Consumer consumer;
    private final Store store;
    private final List<Subscription> users = new CopyOnWriteArrayList<>();
    private final AtomicBoolean telling = new AtomicBoolean();
    private final AtomicBoolean saving = new AtomicBoolean();

    /** Done with the first answer, or when there is nobody to answer; fails with a {@link Refusal}. */
    final CompletableFuture<Void> asked = new CompletableFuture<>();

    // owned by the loop
    private Answer answer;
    private String boot = ""; // the agent that answered; empty: the answer is from disk, or there is none
    private long askedAt;
    private Link.Call call;
    private Loop.Timer retry;
    private final Backoff backoff = new Backoff(100, 5_000);
    private String warned = "";
    private boolean ended;

    // guarded by this, written by the loop
    private UrlSet set = UrlSet.UNKNOWN;

    // written by the loop, read and changed by the courier
    private volatile Answer keep = Answer.NONE;
    private Answer kept = Answer.NONE;

    Topic(Client client, String identity, Consumer consumer, Store store, Answer answer) {
        this.client = client;
        this.identity = identity;
        this.consumer = consumer;
        this.store = store;
        this.answer = answer;
        this.kept = answer;
    }

    Subscription join(Listener listener) {
        Subscription s = new Subscription(this, listener);
        users.add(s);
        return s;
    }

    void leave(Subscription s) {
        if (users.remove(s)) {
            client.left(this);
        }
    }

    boolean used() {
        return !users.isEmpty();
    }

    synchronized UrlSet set() {
        return set;
    }

    synchronized UrlSet await(long ms) throws InterruptedException {
        long end = System.nanoTime() + ms * 1_000_000;
        for (long left = ms; left > 0 && !set.known() && !set.away(); left = (end - System.nanoTime()) / 1_000_000) {
            wait(left);
        }
        return set;
    }

    /** The agent's addresses that it leads to. */
    Set<String> outbound() {
        return answer.outbound();
    }

    /** Does what is due: the agent is new, came or went, or time has passed. */
    void drive() {
        settle();
        if (ended) {
            return;
        }
        if (client.unreachable()) {
            asked.complete(null); // later drives ask
            return;
        }
        if (call != null) {
            return;
        }
        if (retry != null) {
            retry.cancel();
            retry = null;
        }
        if (!current() || System.nanoTime() - askedAt > REFRESH) {
            ask();
        } else {
            watch();
        }
    }

    /** Another agent answers: whatever the old one was asked is over. */
    void renew() {
        if (call != null && !boot.isEmpty() && !current()) {
            call.cancel();
            call = null;
        }
        backoff.reset();
        drive();
    }

    private boolean current() {
        return !boot.isEmpty() && boot.equals(client.boot());
    }

    private void ask() {
        askedAt = System.nanoTime();
        boolean first = !asked.isDone();
        BiConsumer<String, Link.Failure> then = (body, failure) -> {
            call = null;
            if (failure == null) {
                failure = take(body, "subscribe");
            }
            if (failure != null) {
                failed(failure);
            } else {
                asked.complete(null);
                backoff.reset();
                drive();
            }
        };
        call = first ? client.link().call("subscribe", consumer, client.patience(), then)
                : client.link().later("subscribe", consumer, client.patience(), then);
    }

    private void watch() {
        long begin = System.nanoTime();
        call = client.link().watch(answer, WATCH, (body, failure) -> {
            call = null;
            String before = answer.revision;
            if (failure == null && !body.isEmpty()) {
                failure = take(body, "watch");
            }
            if (failure != null) {
                failed(failure);
            } else if (answer.revision.equals(before) && System.nanoTime() - begin < 1_000_000_000L) {
                pause(); // asking on at once would be a busy loop
            } else {
                backoff.reset();
                drive();
            }
        });
    }

    private void failed(Link.Failure failure) {
        if (failure.gone) {
            boot = ""; // the next turn subscribes again
        }
        if (failure.refusal != null && !asked.isDone()) {
            ended = true; // it never was a subscription
            asked.completeExceptionally(failure.refusal);
            return;
        }
        asked.complete(null);
        if (failure.refusal != null && !warned.equals(failure.getMessage())) {
            warned = failure.getMessage();
            client.log().warn("subscription " + identity + " that was taken before: " + warned);
        }
        pause();
    }

    private void pause() {
        settle();
        retry = client.loop().after(backoff.pause(), () -> {
            retry = null;
            drive();
        });
    }

    private Link.Failure take(String body, String what) {
        Answer next;
        try {
            next = Answer.of(body);
            if (next.agent.isEmpty() || next.subscription.isEmpty()) {
                throw new IllegalArgumentException("no agent or no subscription in it");
            }
            next.outbound(); // reads the URLs
        } catch (IllegalArgumentException e) {
            return Link.unclear(what, e);
        }
        answer = next.after(answer);
        boot = next.agent;
        client.hear(next.agent);
        settle();
        if (!next.state.equals("waiting")) {
            keep = answer;
            if (saving.compareAndSet(false, true)) {
                client.courier(this::save);
            }
        }
        return null;
    }

    private void save() {
        saving.set(false);
        Answer a = keep;
        try {
            if (!a.keepsLike(kept)) {
                store.save(a);
                kept = a;
            }
        } catch (IOException e) {
            client.log().warn("direct providers of " + identity + " are not kept for a start without agent: " + e);
        }
    }

    /** Decides what is handed out. */
    private void settle() {
        UrlSet old = set();
        Map<String, List<String>> urls = old.urls();
        boolean direct = old.direct();
        String state = old.state();
        String mode = old.mode();
        String reason = old.reason();
        if (client.away()) {
            reason = "agent-away";
            if (!answer.direct().isEmpty()) {
                urls = Collections.singletonMap("providers", answer.direct());
                direct = true;
            }
        } else if (current()) {
            state = answer.state;
            mode = answer.mode;
            reason = answer.reason;
            if (!direct || !state.equals("waiting")) { // else what the direct providers gave way to is not there yet
                urls = answer.urls;
                direct = false;
            }
        }
        UrlSet next = new UrlSet(old.version() + 1, urls, state, mode, reason, client.away(), direct);
        if (next.same(old)) {
            return;
        }
        synchronized (this) {
            set = next;
            notifyAll();
        }
        tellSoon();
    }

    private void tellSoon() {
        if (telling.compareAndSet(false, true)) {
            client.courier(this::tell);
        }
    }

    private void tell() {
        telling.set(false);
        for (Subscription s : users) {
            try {
                s.tell();
            } catch (RuntimeException e) {
                client.log().warn("listener of " + identity + ": " + e);
                client.loop().execute(() -> client.loop().after(RETRY_LISTENER, this::tellSoon));
            }
        }
    }

    /** Tells the agent that it is no more, if there is one, and then the caller. */
    void end(Runnable then) {
        ended = true;
        if (call != null) {
            call.cancel();
            call = null;
        }
        if (retry != null) {
            retry.cancel();
        }
        asked.complete(null);
        if (client.away() || boot.isEmpty() && client.unreachable()) {
            then.run(); // it ends with the lease
            return;
        }
        client.link().later("unsubscribe", consumer, client.patience(), (body, failure) -> {
            if (failure != null && failure.refusal != null) {
                client.log().warn("unsubscribe " + identity + ": " + failure.getMessage());
            }
            then.run();
        });
    }
}
