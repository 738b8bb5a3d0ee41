package com.github.meshferry.dubbo;

import static org.junit.jupiter.api.Assertions.assertTrue;

import org.apache.dubbo.common.URL;
import org.apache.dubbo.common.extension.ExtensionLoader;
import org.apache.dubbo.config.ConfigPostProcessor;
import org.apache.dubbo.config.RegistryConfig;
import org.apache.dubbo.config.ServiceConfig;
import org.junit.jupiter.api.Test;

/** What it sets on Dubbo 3 is shown by the applications in demo/java; here, on 2.7, it must do nothing, quietly. */
class MeshDefaultsTest {
    @Test
    void dubboFindsItAndOldLinesAreLeftAlone() {
        ConfigPostProcessor found = ExtensionLoader.getExtensionLoader(ConfigPostProcessor.class)
                .getActivateExtension(URL.valueOf("configPostProcessor://"), (String[]) null).stream()
                .filter(p -> p instanceof MeshDefaults).findFirst().orElse(null);
        assertTrue(found != null);
        ServiceConfig<Runnable> service = new ServiceConfig<>();
        found.postProcessServiceConfig(service);
        service.setRegistry(new RegistryConfig("mesh://127.0.0.1:20883"));
        found.postProcessServiceConfig(service);
        assertTrue(service.getRegistry().getAddress().equals("mesh://127.0.0.1:20883"));
    }
}
