package org.example;

import org.apache.dubbo.common.URL;
import org.apache.dubbo.rpc.Exporter;
import org.apache.dubbo.rpc.Invoker;
import org.apache.dubbo.rpc.Protocol;
import org.apache.dubbo.rpc.RpcException;

/** Tells, as an error, what a protocol is told behind all wrappers that Dubbo found. */
public final class ProbeProtocol implements Protocol {
    @Override
    public int getDefaultPort() {
        return 1;
    }

    @Override
    public <T> Exporter<T> export(Invoker<T> invoker) {
        throw new RpcException("not exported");
    }

    @Override
    public <T> Invoker<T> refer(Class<T> type, URL url) {
        throw new RpcException("availablecheck is " + url.getParameter("cluster.availablecheck"));
    }

    @Override
    public void destroy() {}
}
