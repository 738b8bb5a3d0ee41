package com.github.meshferry.client;

/** Is told what to call. One that throws is told again later. */
public interface Listener {
    /** A whole set, of which something is known. Never two at once for one subscription, and never an older one. */
    void changed(UrlSet set);
}
