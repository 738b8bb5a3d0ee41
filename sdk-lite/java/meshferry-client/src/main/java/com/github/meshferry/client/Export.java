package com.github.meshferry.client;

import java.util.concurrent.CompletableFuture;
import java.util.function.BiConsumer;

/** The wish to have a publication, or to have it no more, and what the agent knows of it. Owned by the loop. */
final class Export {
    private static final class Wish {
        final Publication publication;
        final boolean withdrawn;
        /** Done when the agent answered first, or when there is nobody to answer. */
        final CompletableFuture<Result> asked;
        /** What stands if the agent refuses this; null: nothing. */
        final Wish before;
        /** The agent that took it; empty: none did. */
        String taken = "";

        Wish(Publication publication, boolean withdrawn, CompletableFuture<Result> asked, Wish before) {
            this.publication = publication;
            this.withdrawn = withdrawn;
            this.asked = asked;
            this.before = before;
        }
    }

    private final Client client;
    private final String identity;
    private final Backoff backoff = new Backoff(100, 5_000);
    private Wish wish; // null: over
    private Link.Call call;
    private Loop.Timer retry;
    private String warned = "";

    Export(Client client, String identity) {
        this.client = client;
        this.identity = identity;
    }

    /** Replaces the wish. A call that is under way for the old one ends first: the agent is told in order. */
    void want(Publication publication, boolean withdrawn, CompletableFuture<Result> asked) {
        Wish before = wish == null || wish.withdrawn ? null
                : new Wish(wish.publication, false, CompletableFuture.completedFuture(Result.AWAY), null);
        if (before != null) {
            before.taken = wish.taken;
        }
        wish = new Wish(publication, withdrawn, asked, before);
        drive();
    }

    /** The publication, if it is wanted. */
    Publication wanted() {
        return wish == null || wish.withdrawn ? null : wish.publication;
    }

    /** Does what is due: the wish is new, or the agent is, or came, or time has passed. */
    void drive() {
        if (wish == null) {
            return;
        }
        if (client.unreachable()) {
            wish.asked.complete(Result.AWAY); // later drives tell it
            return;
        }
        if (call != null) {
            return;
        }
        boolean first = !wish.asked.isDone();
        if (!first && (client.boot().isEmpty() || wish.taken.equals(client.boot()))) {
            return;
        }
        if (retry != null) {
            retry.cancel();
            retry = null;
        }
        tell(wish, first);
    }

    /** Another agent answers. */
    void renew() {
        backoff.reset();
        drive();
    }

    private void tell(Wish w, boolean first) {
        String what = w.withdrawn ? "unpublish" : "publish";
        Publication p = first ? w.publication : w.publication.waiting(0); // nobody waits for the outcome
        BiConsumer<String, Link.Failure> then = (body, failure) -> {
            call = null;
            if (failure == null) {
                failure = accept(w, what, body, first);
            }
            if (failure != null && failure.refusal != null) {
                refused(w, failure, first);
            } else if (failure != null) {
                w.asked.complete(Result.AWAY);
                retry = client.loop().after(backoff.pause(), () -> {
                    retry = null;
                    drive();
                });
                if (w != wish) {
                    drive();
                }
                return;
            }
            drive();
        };
        long patience = client.patience() + p.patience();
        call = first ? client.link().call(what, p, patience, then) : client.link().later(what, p, patience, then);
    }

    private Link.Failure accept(Wish w, String what, String body, boolean first) {
        Result r;
        try {
            r = Result.of(body);
        } catch (IllegalArgumentException e) {
            return Link.unclear(what, e);
        }
        w.taken = r.agent();
        backoff.reset();
        warned = "";
        if (w == wish && w.withdrawn) {
            over();
        }
        if (!first) {
            client.log().info(identity + " is made known to the agent again: " + r);
        }
        w.asked.complete(r);
        client.hear(r.agent());
        return null;
    }

    private void refused(Wish w, Link.Failure failure, boolean first) {
        if (first && !w.asked.completeExceptionally(failure.refusal)) {
            client.log().warn(identity + ": " + failure.getMessage()); // nobody waits for it any more
        }
        if (w != wish) {
            return;
        }
        if (w.withdrawn || first && w.before == null) {
            over();
        } else if (first) {
            wish = w.before;
        } else {
            // Another start of this application may still hold it, so it is tried again.
            if (!warned.equals(failure.getMessage())) {
                warned = failure.getMessage();
                client.log().warn(identity + " that was published before: " + warned);
            }
            w.taken = client.boot();
            retry = client.loop().after(backoff.pause(), () -> {
                retry = null;
                w.taken = "";
                drive();
            });
        }
    }

    private void over() {
        wish = null;
        client.over(identity, this);
    }
}
