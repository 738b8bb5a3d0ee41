package com.github.meshferry.dubbo;

import com.github.meshferry.client.Client;
import com.github.meshferry.client.Consumer;
import com.github.meshferry.client.Options;
import com.github.meshferry.client.Publication;
import com.github.meshferry.client.Refusal;
import com.github.meshferry.client.Result;
import com.github.meshferry.client.Subscription;
import com.github.meshferry.client.UrlSet;
import java.io.IOException;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.dubbo.common.URL;
import org.apache.dubbo.registry.NotifyListener;
import org.apache.dubbo.registry.Registry;

/**
 * Dubbo's view of an agent: {@code mesh://[any:token@]host:port[?timeout=ms&cache=directory|off]}. It does not extend
 * Dubbo's FailbackRegistry: repeating, keeping on disk and coming back are the client's, with the agent's rules.
 */
final class MeshRegistry implements Registry {
    /** How long a reference waits for its first set, in milliseconds. */
    private static final long FIRST_SET = 3_000;
    /** Why something just published is not in the registry yet; the client says once that the agent is away. */
    private static final List<String> USUAL = Arrays.asList("settling", "port-closed", "agent-away");

    private static final class Key {
        private final String service;
        private final NotifyListener listener;

        Key(URL url, NotifyListener listener) {
            this.service = Urls.consumer(url);
            this.listener = listener;
        }

        @Override
        public boolean equals(Object o) {
            return o instanceof Key && ((Key) o).listener == listener && ((Key) o).service.equals(service);
        }

        @Override
        public int hashCode() {
            return Objects.hash(service, System.identityHashCode(listener));
        }
    }

    private final URL url;
    private final DubboLog log = new DubboLog();
    private final Client client;
    private final Map<Key, Subscription> subscriptions = new ConcurrentHashMap<>();
    private volatile boolean destroyed;

    MeshRegistry(URL url) {
        this.url = url;
        Options options = new Options(url.getHost(), url.getPort() > 0 ? url.getPort() : 20883, url.getParameter("application", "dubbo"))
                .token(url.getPassword())
                .timeout(url.getParameter("timeout", 0))
                .directory(directory(url.getParameter("cache", "")))
                .log(log);
        try {
            client = Client.open(options);
        } catch (IOException e) {
            throw new IllegalStateException("registry " + url.getAddress() + ": " + e.getMessage(), e);
        }
    }

    /** Where direct providers are kept; null: nowhere. */
    private static Path directory(String cache) {
        if (cache.equals("off")) {
            return null;
        }
        return cache.isEmpty() ? Paths.get(System.getProperty("user.home"), ".cache", "meshferry") : Paths.get(cache);
    }

    @Override
    public URL getUrl() {
        return url;
    }

    /** True until {@link #destroy}: an agent that is away is waited for. */
    @Override
    public boolean isAvailable() {
        return !destroyed;
    }

    /**
     * Publishes a provider. It does not wait until the agent's registry has it: the agent looks at the port first, and
     * collects what else the application publishes. Consumers are not registered: the agent writes their nodes from
     * subscriptions.
     */
    @Override
    public void register(URL provider) {
        if (!Urls.isProvider(provider)) {
            return;
        }
        Publication p = Publication.url(Urls.provider(provider)).waiting(0);
        Result r = asked("register", provider, () -> client.publish(p));
        if (r.pending() && !USUAL.contains(r.reason())) {
            log.warn(provider.getServiceKey() + " is not in the registry yet: " + r.reason() + "; the agent goes on");
        }
    }

    @Override
    public void unregister(URL provider) {
        if (Urls.isProvider(provider)) {
            asked("unregister", provider, () -> client.unpublish(Publication.url(Urls.provider(provider))));
        }
    }

    /**
     * Tells the listener of the first set, if there is one, and later of every other one. Rules about a provider are the
     * agent's business, so a provider's own subscription ends at once.
     */
    @Override
    public void subscribe(URL consumer, NotifyListener listener) {
        if (!Urls.isConsumer(consumer)) {
            return;
        }
        Key key = new Key(consumer, listener);
        Subscription s = subscriptions.get(key);
        if (s == null) {
            s = asked("subscribe", consumer, () -> client.subscribe(Consumer.url(key.service), set -> listener.notify(Urls.read(set.urls().values(), consumer, log))));
            Subscription other = subscriptions.putIfAbsent(key, s);
            if (other != null) {
                s.close();
                s = other;
            }
        }
        if (!first(consumer, s).known()) {
            log.warn("no provider of " + consumer.getServiceKey() + " is known yet");
        }
        s.tell();
    }

    @Override
    public void unsubscribe(URL consumer, NotifyListener listener) {
        Subscription s = subscriptions.remove(new Key(consumer, listener));
        if (s != null) {
            s.close();
        }
    }

    /** The providers that are known now. */
    @Override
    public List<URL> lookup(URL consumer) {
        if (!Urls.isConsumer(consumer)) {
            return Collections.emptyList();
        }
        return asked("lookup", consumer, () -> {
            try (Subscription s = client.subscribe(Consumer.url(Urls.consumer(consumer)), null)) {
                return Urls.read(Collections.singleton(first(consumer, s).providers()), consumer, log);
            }
        });
    }

    /** Takes everything back and leaves nothing running. */
    @Override
    public void destroy() {
        destroyed = true;
        client.close();
    }

    /** What is known when the agent had time to answer, or is known to be away. */
    private static UrlSet first(URL consumer, Subscription s) {
        return asked("subscribe", consumer, () -> s.await(FIRST_SET));
    }

    private interface Question<T> {
        T ask() throws Refusal, InterruptedException;
    }

    private static <T> T asked(String what, URL url, Question<T> question) {
        try {
            return question.ask();
        } catch (Refusal e) {
            throw new IllegalStateException("mesh registry: " + what + " " + url.getServiceKey() + ": " + e.getMessage(), e);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            throw new IllegalStateException("mesh registry: " + what + " " + url.getServiceKey() + " was interrupted", e);
        }
    }
}
