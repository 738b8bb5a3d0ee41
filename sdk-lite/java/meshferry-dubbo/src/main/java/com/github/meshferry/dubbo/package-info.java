/**
 * The registry {@code mesh://} of Dubbo 2.7, 3.2 and 3.3, compiled once: an application that has it on its class path
 * and names the agent of its host as its registry publishes to, and calls through, that agent.
 *
 * <p>Invariants:
 *
 * <ul>
 *   <li>Only types and methods that all three lines have are used.
 *   <li>Dubbo is handed whole sets, and never an unknown one: a set of which nothing is known yet removes nobody.
 *   <li>The application is never stopped by a missing agent; only what the agent refuses is an error.
 *   <li>Nothing of it is on the path of a call.
 * </ul>
 */
package com.github.meshferry.dubbo;
