package com.github.meshferry.dubbo;

import org.apache.dubbo.common.URL;
import org.apache.dubbo.registry.Registry;
import org.apache.dubbo.registry.support.AbstractRegistryFactory;

/** Makes the registry of {@code mesh://host:port}. Dubbo keeps one for each address, and destroys it at its end. */
public class MeshRegistryFactory extends AbstractRegistryFactory {
    @Override
    protected Registry createRegistry(URL url) {
        return new MeshRegistry(url);
    }
}
