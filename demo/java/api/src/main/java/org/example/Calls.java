package org.example;

import java.util.Collections;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;

/** What a provider counts: the answer to {@code /stats}. */
public final class Calls {
    private final AtomicInteger calls = new AtomicInteger();
    private final Set<String> peers = Collections.newSetFromMap(new ConcurrentHashMap<>());

    public void count(String peer) {
        calls.incrementAndGet();
        peers.add(peer);
    }

    @Override
    public String toString() {
        return "{\"calls\":{\"sayHello\":" + calls + "},\"connections\":" + peers.size() + "}\n";
    }
}
