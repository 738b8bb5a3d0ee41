package com.github.meshferry.dubbo;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.concurrent.atomic.AtomicReference;
import org.apache.dubbo.common.URL;
import org.apache.dubbo.common.extension.ExtensionLoader;
import org.apache.dubbo.registry.RegistryFactory;
import org.apache.dubbo.rpc.Exporter;
import org.apache.dubbo.rpc.Invoker;
import org.apache.dubbo.rpc.Protocol;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class MeshProtocolTest {
    private static final class Seen implements Protocol {
        private final AtomicReference<URL> url = new AtomicReference<>();

        @Override
        public int getDefaultPort() {
            return 7;
        }

        @Override
        public <T> Exporter<T> export(Invoker<T> invoker) {
            return null;
        }

        @Override
        public <T> Invoker<T> refer(Class<T> type, URL u) {
            url.set(u);
            return null;
        }

        @Override
        public void destroy() {}
    }

    @ParameterizedTest
    @CsvSource({
        "registry://h:1/r?registry=mesh, false",
        "service-discovery-registry://h:1/r?registry=mesh, false",
        "registry://h:1/r?registry=mesh&cluster.availablecheck=true, true",
        "registry://h:1/r?registry=zookeeper, none",
        "dubbo://h:1/com.a.Foo, none"})
    void setsAvailableCheck(String url, String want) {
        Seen seen = new Seen();
        MeshProtocol mesh = new MeshProtocol(seen);
        mesh.refer(String.class, URL.valueOf(url));
        assertEquals(want, seen.url.get().getParameter("cluster.availablecheck", "none"));
        assertEquals(7, mesh.getDefaultPort());
    }

    @Test
    void dubboFindsTheRegistry() {
        assertTrue(ExtensionLoader.getExtensionLoader(RegistryFactory.class).hasExtension("mesh"));
    }
}
