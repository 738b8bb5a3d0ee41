package org.example;

import org.apache.dubbo.common.constants.CommonConstants;
import org.apache.dubbo.common.extension.Activate;
import org.apache.dubbo.rpc.Filter;
import org.apache.dubbo.rpc.Invocation;
import org.apache.dubbo.rpc.Invoker;
import org.apache.dubbo.rpc.Result;

/** Notes what Dubbo calls, after registry and balancing, for the demo to show. Nothing of it is needed to use Dubbo or an agent. */
@Activate(group = CommonConstants.CONSUMER)
public final class HopFilter implements Filter {
    private static final ThreadLocal<String> LAST = new ThreadLocal<>();

    @Override
    public Result invoke(Invoker<?> invoker, Invocation call) {
        LAST.set(invoker.getUrl().getAddress());
        return invoker.invoke(call);
    }

    /** Fields of a ledger's line. */
    static String json(String answer) {
        return ",\"to\":" + Control.quoted(LAST.get()) + ",\"hops\":" + Control.quoted(hops(answer));
    }

    /**
     * Which way the last call of this thread went, from what both ends saw: the address that the consumer called, and the host
     * from which the provider says that it was called. On a provider's own host nobody but the agent calls it.
     */
    static String hops(String answer) {
        String[] told = answer.substring(answer.indexOf("this is ") + 8).split(", called from ");
        boolean here = LAST.get().contains("127.0.0.1"), inbound = told.length == 2 && told[1].equals("this host");
        String way = here && inbound ? " (its agent) → the provider's agent" : here && told.length == 2 ? " (its agent)" : inbound ? " (the provider's agent)" : "";
        return "consumer → " + LAST.get() + way + " → " + told[0];
    }
}
