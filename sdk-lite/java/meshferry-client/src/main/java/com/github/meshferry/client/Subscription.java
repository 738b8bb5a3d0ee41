package com.github.meshferry.client;

/**
 * One use of a service that this process calls. Subscriptions of one identity (protocol and service key as asked) share
 * what the agent says. Safe for concurrent use.
 */
public final class Subscription implements AutoCloseable {
    private final Topic topic;
    private final Listener listener;
    private long told; // guarded by this: version of the set that the listener has

    Subscription(Topic topic, Listener listener) {
        this.topic = topic;
        this.listener = listener;
    }

    /** What is known now. */
    public UrlSet set() {
        return topic.set();
    }

    /** Waits until something is known, or that the agent is away, but not longer than given. Gives what is known then. */
    public UrlSet await(long ms) throws InterruptedException {
        return topic.await(ms);
    }

    /**
     * Tells the listener of the present set, unless it has it or nothing is known. Other threads that do the same wait.
     */
    public synchronized void tell() {
        UrlSet set = topic.set();
        if (listener != null && set.known() && set.version() > told) {
            listener.changed(set);
        }
        told = Math.max(told, set.version());
    }

    /** Ends it. The agent is told with the last one of the identity. */
    @Override
    public void close() {
        topic.leave(this);
    }
}
