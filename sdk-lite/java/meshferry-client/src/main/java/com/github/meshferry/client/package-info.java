/**
 * The client of the control API of a Meshferry agent. It needs nothing but the JDK. Begin with {@link
 * com.github.meshferry.client.Client}.
 */
package com.github.meshferry.client;
