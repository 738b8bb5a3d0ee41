package com.github.meshferry.dubbo;

import java.util.List;
import org.apache.dubbo.common.URL;
import org.apache.dubbo.rpc.Exporter;
import org.apache.dubbo.rpc.Invoker;
import org.apache.dubbo.rpc.Protocol;
import org.apache.dubbo.rpc.ProtocolServer;
import org.apache.dubbo.rpc.RpcException;

/**
 * Sets {@code cluster.availablecheck=false} on the address of the registry mesh, unless the application has set it.
 * With it set to true, Dubbo 3 takes the only address, the agent's, out of use for about a minute after it was gone for
 * half a second. Dubbo reads it where a reference is made, from the registry's address, and puts a wrapper like this
 * around every protocol, also that of registries. Source: AbstractClusterInvoker, AbstractDirectory#addInvalidateInvoker.
 */
public class MeshProtocol implements Protocol {
    private static final String AVAILABLE_CHECK = "cluster.availablecheck";

    private final Protocol protocol;

    /** This constructor is what makes it a wrapper. */
    public MeshProtocol(Protocol protocol) {
        this.protocol = protocol;
    }

    @Override
    public <T> Invoker<T> refer(Class<T> type, URL url) throws RpcException {
        boolean mesh = "mesh".equals(url.getParameter("registry")) || "mesh".equals(url.getProtocol());
        return protocol.refer(type, mesh ? url.addParameterIfAbsent(AVAILABLE_CHECK, "false") : url);
    }

    @Override
    public int getDefaultPort() {
        return protocol.getDefaultPort();
    }

    @Override
    public <T> Exporter<T> export(Invoker<T> invoker) throws RpcException {
        return protocol.export(invoker);
    }

    @Override
    public void destroy() {
        protocol.destroy();
    }

    @Override
    public List<ProtocolServer> getServers() {
        return protocol.getServers();
    }
}
