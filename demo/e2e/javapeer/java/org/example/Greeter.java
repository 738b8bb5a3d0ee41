package org.example;

import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentSkipListSet;
import org.apache.dubbo.rpc.RpcContext;
import org.apache.dubbo.rpc.RpcInvocation;

/** Answers like the provider of demo/app and counts what it saw. */
final class Greeter implements GreetService {
    private final String name;
    private final Map<String, Integer> calls = new ConcurrentHashMap<>();
    private final Set<String> peers = new ConcurrentSkipListSet<>();
    private final Map<String, Integer> serializations = new ConcurrentHashMap<>();

    Greeter(String name) {
        this.name = name;
    }

    @Override
    public String sayHello(String who) {
        count("sayHello");
        return "hello " + who + ", this is " + name;
    }

    @Override
    public String slow(long ms) {
        count("slow");
        try {
            Thread.sleep(ms);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
        return name;
    }

    @Override
    public String fail(String text) {
        count("fail");
        throw new IllegalStateException(text);
    }

    @Override
    public byte[] echo(byte[] data) {
        count("echo");
        return data;
    }

    private void count(String method) {
        calls.merge(method, 1, Integer::sum);
        peers.add(RpcContext.getContext().getRemoteAddressString());
        Object id = ((RpcInvocation) RpcContext.getContext().getInvocation()).get("serialization_id");
        serializations.merge(String.valueOf(id), 1, Integer::sum);
    }

    /** Calls by method and by serialization, and the far ends of the connections that carried them. */
    Map<String, Object> stats() {
        Map<String, Object> stats = new TreeMap<>();
        stats.put("name", name);
        stats.put("calls", calls);
        stats.put("connections", peers.size());
        stats.put("peers", peers);
        stats.put("serializations", serializations);
        return stats;
    }
}
