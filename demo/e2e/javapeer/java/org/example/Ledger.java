package org.example;

import java.util.ArrayList;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.LockSupport;

/** One entry for each call: when it began and how it ended. Times are milliseconds. */
final class Ledger {
    /** A load that is not answered must not eat the machine's memory. */
    private static final int MAX_UNDER_WAY = 512;

    private final long begin = System.nanoTime();
    private final List<Map<String, Object>> entries = new ArrayList<>();

    /** Calls one after the other. */
    void series(int calls, Callable<String> call) {
        for (int i = 1; i <= calls; i++) {
            one(i, call);
        }
    }

    /** Begins rate calls a second, whether or not earlier ones have been answered, and waits for all. */
    void load(int rate, long ms, Callable<String> call) throws InterruptedException {
        ExecutorService pool = Executors.newCachedThreadPool();
        Semaphore places = new Semaphore(MAX_UNDER_WAY);
        long total = rate * ms / 1000;
        for (int i = 1; i <= total; i++) {
            long due = begin + (i - 1) * 1_000_000_000L / rate;
            for (long wait = due - System.nanoTime(); wait > 0; wait = due - System.nanoTime()) {
                LockSupport.parkNanos(wait);
            }
            int n = i;
            places.acquire();
            pool.execute(() -> {
                one(n, call);
                places.release();
            });
        }
        pool.shutdown();
        pool.awaitTermination(1, TimeUnit.MINUTES);
    }

    private void one(int n, Callable<String> call) {
        long at = System.nanoTime();
        Map<String, Object> e = new LinkedHashMap<>();
        e.put("n", n);
        e.put("at", millis(at - begin));
        try {
            e.put("answer", call.call());
            e.put("ok", true);
        } catch (Throwable t) {
            e.put("ok", false);
            e.put("error", t.getClass().getName() + ": " + t.getMessage());
            Throwable root = t;
            while (root.getCause() != null && root.getCause() != root) {
                root = root.getCause();
            }
            e.put("cause", root.getClass().getName() + ": " + root.getMessage());
        }
        e.put("ms", millis(System.nanoTime() - at));
        synchronized (entries) {
            entries.add(e);
        }
    }

    private static double millis(long nanos) {
        return nanos / 1000 / 1000.0;
    }

    /** In the order of their begin. */
    List<Map<String, Object>> entries() {
        synchronized (entries) {
            entries.sort(Comparator.comparing(e -> (Integer) e.get("n")));
            return new ArrayList<>(entries);
        }
    }
}
