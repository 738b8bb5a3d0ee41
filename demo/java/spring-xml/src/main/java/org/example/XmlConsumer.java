package org.example;

import org.springframework.context.support.ClassPathXmlApplicationContext;

/** What it calls stands in consumer.xml. */
public final class XmlConsumer {
    private XmlConsumer() {}

    public static void main(String[] args) throws Exception {
        ClassPathXmlApplicationContext context = new ClassPathXmlApplicationContext("consumer.xml");
        context.registerShutdownHook();
        context.start();
        GreetService service = context.getBean(GreetService.class);
        Control.serve("consumer", "/call", query -> Ledger.of(query, () -> service.sayHello("world")));
    }
}
