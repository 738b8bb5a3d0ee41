package com.github.meshferry.dubbo;

import java.lang.reflect.Method;
import java.util.List;
import org.apache.dubbo.common.extension.Activate;
import org.apache.dubbo.config.ConfigPostProcessor;
import org.apache.dubbo.config.RegistryConfig;
import org.apache.dubbo.config.ServiceConfig;

/**
 * Makes {@code register-mode=interface} the default of {@code mesh://} for providers of Dubbo 3. The agent registers both
 * levels itself; without this Dubbo also tries to register the application, and logs an error that means nothing. A mode
 * that the registry's address or configuration names is kept. 2.7 has no such mode.
 */
@Activate
public class MeshDefaults implements ConfigPostProcessor {
    private static final Method MODE = method("getRegisterMode");
    private static final Method SET_MODE = method("setRegisterMode", String.class);

    @Override
    @SuppressWarnings({"rawtypes", "unchecked"})
    public void postProcessServiceConfig(ServiceConfig service) {
        List<RegistryConfig> registries = service.getRegistries();
        if (MODE == null || SET_MODE == null || registries == null) {
            return;
        }
        for (RegistryConfig registry : registries) {
            String address = registry.getAddress();
            if (address == null || address.contains("register-mode=") || !address.startsWith("mesh:") && !"mesh".equals(registry.getProtocol())) {
                continue;
            }
            try {
                if (MODE.invoke(registry) == null) {
                    SET_MODE.invoke(registry, "interface");
                }
            } catch (ReflectiveOperationException e) {
                return; // the error in the log is all that it costs
            }
        }
    }

    private static Method method(String name, Class<?>... types) {
        try {
            return RegistryConfig.class.getMethod(name, types);
        } catch (NoSuchMethodException e) {
            return null;
        }
    }
}
