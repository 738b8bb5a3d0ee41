package com.github.meshferry.dubbo;

import java.lang.reflect.Method;
import java.util.ArrayList;
import java.util.List;
import org.apache.dubbo.common.URL;

/** Between Dubbo's URLs and the texts that the agent knows. */
final class Urls {
    /** Makes the address of a provider; null before Dubbo 3. */
    private static final Method ADDRESS = addresses();

    private Urls() {}

    /** As Dubbo's own registries write it: parameters as they are, but for what no URL may hold. */
    static String provider(URL url) {
        return plain(url.toFullString());
    }

    /**
     * A reference. Dubbo 3 puts the protocol that the reference asks for in place of consumer://; the agent looks for it
     * in the parameters.
     */
    static String consumer(URL url) {
        String text = url.toFullString();
        String rest = text.substring(text.indexOf("://"));
        boolean named = "consumer".equals(url.getProtocol()) || url.getParameter("protocol") != null;
        return plain("consumer" + rest + (named ? "" : (rest.indexOf('?') < 0 ? "?" : "&") + "protocol=" + url.getProtocol()));
    }

    private static String plain(String text) {
        StringBuilder plain = new StringBuilder(text.length());
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            if (c < ' ' || c == 0x7f || c == '#') {
                plain.append('%').append(Character.forDigit(c >> 4, 16)).append(Character.toUpperCase(Character.forDigit(c & 15, 16)));
            } else {
                plain.append(c);
            }
        }
        return plain.toString();
    }

    /** What the directory of a consumer is told: each text as a URL. One that cannot be read is left out. */
    static List<URL> read(Iterable<? extends Iterable<String>> categories, URL consumer, DubboLog log) {
        List<URL> urls = new ArrayList<>();
        for (Iterable<String> category : categories) {
            for (String text : category) {
                try {
                    urls.add(address(URL.valueOf(text), text, consumer));
                } catch (RuntimeException e) {
                    log.warn("a URL of the agent is not understood and left out: " + text + ": " + e);
                }
            }
        }
        return urls;
    }

    /**
     * A provider as Dubbo's own registries hand it out. Dubbo 3 keeps the consumer's settings beside the provider's;
     * given a plain URL it merges both and loses the settings of methods: their time-outs, one-way calls, callbacks.
     * Source: CacheableFailbackRegistry, ClusterUtils#mergeUrl. 2.7 has plain URLs only.
     */
    private static URL address(URL url, String text, URL consumer) {
        if (ADDRESS == null || "empty".equals(url.getProtocol()) || !"providers".equals(url.getParameter("category", "providers"))) {
            return url;
        }
        try {
            return (URL) ADDRESS.invoke(null, URL.encode(text), consumer);
        } catch (ReflectiveOperationException e) {
            return url;
        }
    }

    private static Method addresses() {
        try {
            return Class.forName("org.apache.dubbo.common.url.component.DubboServiceAddressURL").getMethod("valueOf", String.class, URL.class);
        } catch (ReflectiveOperationException e) {
            return null;
        }
    }

    /** What this process serves. */
    static boolean isProvider(URL url) {
        return "provider".equals(url.getParameter("side")) && !"provider".equals(url.getProtocol());
    }

    /** What this process calls. */
    static boolean isConsumer(URL url) {
        return "consumer".equals(url.getParameter("side")) || "consumer".equals(url.getProtocol());
    }
}
