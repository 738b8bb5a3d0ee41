package com.github.meshferry.client;

/**
 * Decides whether the agent is away, from observations of its control API and its outbound address. It is pure: times
 * (nanoseconds) come from the caller.
 */
final class Presence {
    /** Both failed for this long: the agent is away. */
    static final long AWAY_AFTER = 1_000_000_000L;
    /** Both answered this often, one after the other: it is back. */
    static final int BACK_AFTER = 2;

    private boolean away;
    private boolean failing;
    private long since;
    private int answers;

    boolean away() {
        return away;
    }

    /** Whether the last observation of an agent that is away was good. */
    boolean returning() {
        return answers > 0;
    }

    /** Takes an observation and says whether {@link #away} changed. */
    boolean observe(long now, boolean control, boolean outbound) {
        if (away) {
            answers = control && outbound ? answers + 1 : 0;
            if (answers < BACK_AFTER) {
                return false;
            }
            away = false;
            answers = 0;
            failing = false;
            return true;
        }
        if (control || outbound) {
            failing = false;
        } else if (!failing) {
            failing = true;
            since = now;
        } else if (now - since >= AWAY_AFTER) {
            away = true;
            return true;
        }
        return false;
    }

    /** Forgets doubts: something proved that the agent lives. */
    void sure() {
        failing = false;
    }
}
