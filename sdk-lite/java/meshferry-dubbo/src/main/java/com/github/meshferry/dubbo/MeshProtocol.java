package com.github.meshferry.dubbo;

import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.dubbo.common.URL;
import org.apache.dubbo.rpc.Exporter;
import org.apache.dubbo.rpc.Invoker;
import org.apache.dubbo.rpc.Protocol;
import org.apache.dubbo.rpc.ProtocolServer;
import org.apache.dubbo.rpc.RpcException;
import org.apache.dubbo.rpc.protocol.InvokerWrapper;

/**
 * Dubbo puts a wrapper like this around every protocol, also that of registries. For the registry mesh it
 *
 * <ul>
 *   <li>sets {@code cluster.availablecheck=false} on the address, unless the application has set it: with true, Dubbo 3
 *       takes the only address, the agent's, out of use for about a minute after it was gone for half a second. Dubbo
 *       reads it where a reference is made. Source: AbstractClusterInvoker, AbstractDirectory#addInvalidateInvoker.
 *   <li>keeps Dubbo 3 at the interface level, whatever {@code register-mode} and {@code service-discovery.migration} the
 *       application has: the agent registers and looks up at both levels itself, and the other level has no mesh.
 *       Source: ConfigValidationUtils#genCompatibleRegistries, MigrationRule#getStep.
 * </ul>
 */
public class MeshProtocol implements Protocol {
    private static final String MESH = "mesh";
    private static final String AVAILABLE_CHECK = "cluster.availablecheck";
    private static final String APPLICATION_LEVEL = "service-discovery-registry";

    private final Protocol protocol;

    /** This constructor is what makes it a wrapper. */
    public MeshProtocol(Protocol protocol) {
        this.protocol = protocol;
    }

    @Override
    public <T> Invoker<T> refer(Class<T> type, URL url) throws RpcException {
        boolean mesh = MESH.equals(url.getParameter("registry")) || MESH.equals(url.getProtocol());
        return protocol.refer(type, mesh ? atInterfaceLevel(url.addParameterIfAbsent(AVAILABLE_CHECK, "false")) : url);
    }

    /** With {@code register-mode=instance} this is the only export there is; it goes where the other one would. */
    @Override
    public <T> Exporter<T> export(Invoker<T> invoker) throws RpcException {
        URL url = invoker.getUrl();
        if (APPLICATION_LEVEL.equals(url.getProtocol()) && MESH.equals(url.getParameter("registry")) && "instance".equals(url.getParameter("register-mode"))) {
            return protocol.export(new InvokerWrapper<>(invoker, url.setProtocol(MESH).removeParameter("registry")));
        }
        return protocol.export(invoker);
    }

    /** Dubbo 3 has the reference's parameters in an attribute of the registry's URL; 2.7, which has no such thing, asks for no level. */
    private static URL atInterfaceLevel(URL url) {
        try {
            Object reference = URL.class.getMethod("getAttribute", String.class).invoke(url, "refer");
            if (!(reference instanceof Map)) {
                return url;
            }
            Map<Object, Object> ours = new HashMap<>((Map<?, ?>) reference); // other registries have the same one
            ours.put("migration.step", "FORCE_INTERFACE");
            return (URL) URL.class.getMethod("putAttribute", String.class, Object.class).invoke(url, "refer", ours);
        } catch (ReflectiveOperationException e) {
            return url;
        }
    }

    @Override
    public int getDefaultPort() {
        return protocol.getDefaultPort();
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
