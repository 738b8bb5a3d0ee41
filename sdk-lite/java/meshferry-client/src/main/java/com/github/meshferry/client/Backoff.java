package com.github.meshferry.client;

import java.util.concurrent.ThreadLocalRandom;

/** A growing pause with a cap and jitter, in milliseconds. */
final class Backoff {
    private final int first;
    private final int limit;
    private int next;

    Backoff(int first, int limit) {
        this.first = first;
        this.limit = limit;
        this.next = first;
    }

    /** Between half and all of a time that doubles, so that processes on one host do not call in step. */
    int pause() {
        int d = next;
        next = Math.min(2 * next, limit);
        return d / 2 + ThreadLocalRandom.current().nextInt(d / 2 + 1);
    }

    void reset() {
        next = first;
    }
}
