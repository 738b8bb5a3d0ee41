package com.github.meshferry.client;

/** Where a client says what happened: info when a state changed once, warn when it is degraded but serving. */
public interface Log {
    /** Says nothing. */
    Log NONE = new Log() {
        @Override
        public void debug(String text) {}

        @Override
        public void info(String text) {}

        @Override
        public void warn(String text) {}
    };

    void debug(String text);

    void info(String text);

    void warn(String text);
}
