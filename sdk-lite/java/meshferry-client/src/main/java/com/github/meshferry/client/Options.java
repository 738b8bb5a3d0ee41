package com.github.meshferry.client;

import java.nio.file.Path;

/** Settings of a {@link Client}. Times are milliseconds. Change nothing after {@link Client#open}. */
public final class Options {
    final String host;
    final int port;
    final String application;
    String workload;
    String token = "";
    Path directory;
    int timeout = 5000;
    int ttl = 15000;
    Log log = Log.NONE;

    /** The agent's control API, and the Dubbo application name of this process. */
    public Options(String host, int port, String application) {
        if (host == null || host.isEmpty() || port <= 0 || port > 65535) {
            throw new IllegalArgumentException("agent address " + host + ":" + port + ": want a host and a port in 1..65535");
        }
        if (application == null || application.isEmpty()) {
            throw new IllegalArgumentException("the application has no name");
        }
        this.host = host;
        this.port = port;
        this.application = application;
    }

    /** Names this process to the agent. Default: the application and a random part, new with every start. */
    public Options workload(String workload) {
        this.workload = workload;
        return this;
    }

    /** For agents that ask for one. */
    public Options token(String token) {
        this.token = token == null ? "" : token;
        return this;
    }

    /**
     * Where the last answer to each subscription is kept, so that a start without agent has direct providers. It
     * is made for the owner only. Null, the default: nothing is kept.
     */
    public Options directory(Path directory) {
        this.directory = directory;
        return this;
    }

    /** Bounds each call. Default 5 s. */
    public Options timeout(int ms) {
        if (ms > 0) {
            this.timeout = ms;
        }
        return this;
    }

    /** How long the agent waits for a sign of life. Default 15 s. */
    public Options ttl(int ms) {
        if (ms > 0) {
            this.ttl = ms;
        }
        return this;
    }

    /** Default: nothing is logged. */
    public Options log(Log log) {
        this.log = log;
        return this;
    }
}
