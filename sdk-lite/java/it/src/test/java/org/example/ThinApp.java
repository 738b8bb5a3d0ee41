package org.example;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.management.ManagementFactory;
import org.apache.dubbo.config.ApplicationConfig;
import org.apache.dubbo.config.ProtocolConfig;
import org.apache.dubbo.config.ReferenceConfig;
import org.apache.dubbo.config.RegistryConfig;
import org.apache.dubbo.config.ServiceConfig;
import org.apache.dubbo.config.bootstrap.DubboBootstrap;

/**
 * An application as users write it, with the registry mesh://. Arguments: its name, the registry, the port to serve on
 * (0: it calls). It answers each line of its standard input with one on its standard output: "call" with the answer or
 * the error, "stop" with the threads of ours that are left.
 */
public final class ThinApp {
    private ThinApp() {}

    public static void main(String[] args) throws Exception {
        PrintStream out = System.out;
        System.setOut(System.err); // the lines that the test reads are ours alone
        int port = Integer.parseInt(args[2]);
        ApplicationConfig application = new ApplicationConfig(args[0]);
        application.setQosEnable(false);
        DubboBootstrap bootstrap = DubboBootstrap.getInstance().application(application).registry(new RegistryConfig(args[1]));
        ReferenceConfig<Hello> reference = new ReferenceConfig<>();
        if (port > 0) {
            ServiceConfig<Hello> service = new ServiceConfig<>();
            service.setInterface(Hello.class);
            service.setRef(name -> "hello " + name + ", this is " + args[0]);
            bootstrap.protocol(new ProtocolConfig("dubbo", port)).service(service);
        } else {
            reference.setInterface(Hello.class);
            reference.setTimeout(2000);
            bootstrap.reference(reference);
        }
        bootstrap.start();
        Hello hello = port > 0 ? null : reference.get();
        out.println("ready after " + (System.currentTimeMillis() - ManagementFactory.getRuntimeMXBean().getStartTime()) + " ms");
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            if (line.equals("stop")) {
                bootstrap.stop();
                out.println("left " + Thread.getAllStackTraces().keySet().stream().filter(t -> t.getName().startsWith("meshferry")).count());
            } else {
                out.println(call(hello));
            }
        }
        Runtime.getRuntime().halt(0); // whoever started it is gone
    }

    private static String call(Hello hello) {
        try {
            return hello.hello("world");
        } catch (RuntimeException e) {
            return ("error " + e).replace('\n', ' ');
        }
    }
}
