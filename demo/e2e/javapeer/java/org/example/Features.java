package org.example;

import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.dubbo.rpc.RpcContext;

/** The provider's side of {@link FeatureService} and {@link FollowService}. */
final class Features implements FeatureService, FollowService {
    private final ScheduledExecutorService clock = Executors.newScheduledThreadPool(4);
    private final AtomicInteger told = new AtomicInteger();
    private final AtomicInteger waiting = new AtomicInteger();
    private final AtomicInteger mostWaiting = new AtomicInteger();

    @Override
    public String nothing() {
        return null;
    }

    @Override
    public String refuse(String text) throws Refused {
        throw new Refused(text, 17);
    }

    @Override
    public String breakDown(String text) {
        throw new IllegalStateException(text);
    }

    @Override
    public Order change(Order order) {
        Order changed = new Order();
        changed.setNumber(order.getNumber() + 1);
        changed.setGoods(order.getGoods());
        changed.setParent(order);
        return changed;
    }

    @Override
    public CompletableFuture<String> later(String text, long ms) {
        CompletableFuture<String> answer = new CompletableFuture<>();
        mostWaiting.accumulateAndGet(waiting.incrementAndGet(), Math::max);
        clock.schedule(() -> {
            waiting.decrementAndGet();
            answer.complete("later " + text);
        }, ms, TimeUnit.MILLISECONDS);
        return answer;
    }

    @Override
    public void tell(String text) {
        told.incrementAndGet();
        throw new IllegalStateException("nobody waits for this");
    }

    @Override
    public Map<String, Integer> seen() {
        Map<String, Integer> seen = new TreeMap<>();
        seen.put("told", told.get());
        seen.put("mostWaiting", mostWaiting.get());
        return seen;
    }

    @Override
    public Map<String, String> attachments(String prefix) {
        Map<String, String> found = new TreeMap<>();
        RpcContext.getContext().getAttachments().forEach((key, value) -> {
            if (key.startsWith(prefix)) {
                found.put(key, value);
            }
        });
        RpcContext.getServerContext().setAttachment(prefix + "answer", "from the provider");
        return found;
    }

    @Override
    public String follow(Follower follower, int before, int after) {
        StringBuilder answers = new StringBuilder();
        for (int i = 1; i <= before; i++) {
            answers.append(follower.tell("before " + i)).append(';');
        }
        for (int i = 1; i <= after; i++) {
            int n = i;
            clock.schedule(() -> follower.tell("after " + n), 100L * i, TimeUnit.MILLISECONDS);
        }
        return answers.toString();
    }
}
