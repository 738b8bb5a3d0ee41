package org.example;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.dubbo.rpc.RpcContext;
import org.apache.dubbo.rpc.RpcException;
import org.apache.dubbo.rpc.service.GenericService;

/** The consumer's side of {@link FeatureService} and {@link FollowService}: each use gives a text that a test knows. */
final class Uses {
    private final Peer peer;

    Uses(Peer peer) {
        this.peer = peer;
    }

    String use(String what, String group, String version) throws Exception {
        FeatureService features = what.equals("follow") ? null : peer.reference(FeatureService.class, group, version);
        switch (what) {
            case "null":
                return String.valueOf(features.nothing());
            case "business":
                try {
                    return features.refuse("no such goods");
                } catch (Refused e) {
                    return e.getClass().getName() + " " + e.getCode() + ": " + e.getMessage();
                }
            case "unchecked":
                try {
                    return features.breakDown("broken");
                } catch (RuntimeException e) {
                    return e.getClass().getName() + ": " + e.getMessage();
                }
            case "framework":
                try {
                    return peer.reference(GreetService.class, group, version).slow(30_000);
                } catch (RpcException e) {
                    return "RpcException timeout=" + e.isTimeout();
                }
            case "object":
                return show(features.change(order(41, order(7, null))));
            case "generic":
                return generic(group, version);
            case "async":
                return async(features);
            case "oneway":
                return oneway(features);
            case "attachments":
                RpcContext.getContext().setAttachment("shop.city", "Paris");
                RpcContext.getContext().setAttachment("shop.note", "ü€\uD83D\uDE00");
                Map<String, String> there = features.attachments("shop.");
                return there + " back " + RpcContext.getServerContext().getAttachment("shop.answer");
            case "follow":
                return follow(peer.reference(FollowService.class, group, version));
            default:
                throw new IllegalArgumentException("no use " + what);
        }
    }

    private static Order order(long number, Order parent) {
        Order o = new Order();
        o.setNumber(number);
        o.setGoods(Arrays.asList("tea", "ü€\uD83D\uDE00"));
        o.setParent(parent);
        return o;
    }

    private static String show(Order o) {
        return o == null ? "-" : o.getNumber() + " " + o.getGoods() + " < " + show(o.getParent());
    }

    private String generic(String group, String version) {
        GenericService service = peer.generic(FeatureService.class.getName(), group, version);
        Map<String, Object> order = new HashMap<>();
        order.put("class", Order.class.getName());
        order.put("number", 1L);
        order.put("goods", new ArrayList<>(Arrays.asList("tea", "milk")));
        Map<?, ?> changed = (Map<?, ?>) service.$invoke("change", new String[] {Order.class.getName()}, new Object[] {order});
        return changed.get("number") + " " + changed.get("goods") + " < " + ((Map<?, ?>) changed.get("parent")).get("number");
    }

    /** All are begun before one is answered. */
    private static String async(FeatureService features) throws Exception {
        List<CompletableFuture<String>> answers = new ArrayList<>();
        for (int i = 0; i < 10; i++) {
            answers.add(features.later(String.valueOf(i), 1000));
        }
        List<String> texts = new ArrayList<>();
        for (CompletableFuture<String> answer : answers) {
            texts.add(answer.get(30, TimeUnit.SECONDS));
        }
        return texts + " at once " + features.seen().get("mostWaiting");
    }

    /** The reference says of the method that it wants no answer; nothing tells when it has arrived. */
    private static String oneway(FeatureService features) throws Exception {
        int before = features.seen().get("told");
        for (int i = 0; i < 20; i++) {
            features.tell("one way");
        }
        int told = 0;
        for (int i = 0; i < 500 && told < 20; i++) {
            Thread.sleep(20);
            told = features.seen().get("told") - before;
        }
        return "told " + told;
    }

    private static String follow(FollowService service) throws Exception {
        Notebook notebook = new Notebook();
        String answers = service.follow(notebook, 3, 5);
        notebook.all.await(30, TimeUnit.SECONDS);
        synchronized (notebook.heard) {
            return answers + " " + notebook.heard;
        }
    }

    /** Not a lambda: Dubbo 3 refuses classes that are not in the package of the interface. */
    static final class Notebook implements Follower {
        final Map<String, Integer> heard = new TreeMap<>();
        final CountDownLatch all = new CountDownLatch(8);

        @Override
        public String tell(String text) {
            synchronized (heard) {
                heard.merge(text.split(" ")[0], 1, Integer::sum);
            }
            all.countDown();
            return "heard " + text;
        }
    }
}
