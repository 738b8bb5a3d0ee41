package org.example;

/** A service with a callback: it calls its callers. */
public interface FollowService {
    /** Tells the follower so many times before it answers, and so many times afterwards. */
    String follow(Follower follower, int before, int after);
}
