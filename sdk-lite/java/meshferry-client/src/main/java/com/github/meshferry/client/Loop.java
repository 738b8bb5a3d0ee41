package com.github.meshferry.client;

import java.io.IOException;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.util.Iterator;
import java.util.PriorityQueue;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;

/**
 * One daemon thread that owns all mutable state of a client: it runs tasks, timers and {@link Exchange}s, one at a
 * time. All methods but {@link #execute} and {@link #join} are for that thread.
 */
final class Loop {
    /** A task to be run later. */
    final class Timer implements Comparable<Timer> {
        private final long at;
        private final Runnable task;

        private Timer(long at, Runnable task) {
            this.at = at;
            this.task = task;
        }

        void cancel() {
            timers.remove(this);
        }

        @Override
        public int compareTo(Timer o) {
            return Long.compare(at - o.at, 0); // nanoTime may wrap
        }
    }

    final Selector selector;
    private final Log log;
    private final Thread thread;
    private final Queue<Runnable> tasks = new ConcurrentLinkedQueue<>();
    private final PriorityQueue<Timer> timers = new PriorityQueue<>();
    private boolean ending;
    private volatile boolean ended;

    Loop(String name, Log log) throws IOException {
        this.log = log;
        selector = Selector.open();
        thread = new Thread(this::run, name);
        thread.setDaemon(true);
        thread.setContextClassLoader(null); // it must not hold on to an application that is undeployed
        thread.start();
    }

    /** Runs a task soon. From any thread; false, and it may never run, when the loop has ended. */
    boolean execute(Runnable task) {
        tasks.add(task);
        selector.wakeup();
        return !ended;
    }

    Timer after(long ms, Runnable task) {
        Timer t = new Timer(System.nanoTime() + ms * 1_000_000, task);
        timers.add(t);
        return t;
    }

    /** Ends the loop after the present task; sockets that are open are closed. */
    void end() {
        ending = true;
    }

    void join(long ms) throws InterruptedException {
        if (Thread.currentThread() != thread) {
            thread.join(ms);
        }
    }

    private void run() {
        try {
            while (!ending) {
                turn();
            }
        } catch (IOException | RuntimeException e) {
            log.warn("the client of the agent stops: " + e);
        } finally {
            ended = true;
            close();
        }
    }

    private void turn() throws IOException {
        for (Runnable task = tasks.poll(); task != null && !ending; task = tasks.poll()) {
            guard(task);
        }
        long now = System.nanoTime();
        while (!ending && !timers.isEmpty() && timers.peek().at - now <= 0) {
            guard(timers.poll().task);
        }
        if (ending) {
            return;
        }
        if (!tasks.isEmpty()) {
            selector.selectNow();
        } else if (timers.isEmpty()) {
            selector.select();
        } else {
            selector.select(Math.max(1, (timers.peek().at - System.nanoTime()) / 1_000_000 + 1));
        }
        for (Iterator<SelectionKey> i = selector.selectedKeys().iterator(); i.hasNext(); ) {
            SelectionKey key = i.next();
            i.remove();
            if (key.isValid()) {
                guard(((Exchange) key.attachment())::ready);
            }
        }
    }

    /** A mistake in one task must not end the others. */
    private void guard(Runnable task) {
        try {
            task.run();
        } catch (RuntimeException e) {
            log.warn("client of the agent: " + e + at(e));
        }
    }

    private static String at(RuntimeException e) {
        return e.getStackTrace().length == 0 ? "" : " at " + e.getStackTrace()[0];
    }

    private void close() {
        try {
            for (SelectionKey key : selector.keys()) {
                key.channel().close();
            }
            selector.close();
        } catch (IOException e) {
            log.debug("closing: " + e);
        }
    }
}
