package com.github.meshferry.dubbo;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.stream.Collectors;
import org.apache.dubbo.common.URL;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class UrlsTest {
    @ParameterizedTest
    @CsvSource({
        "consumer://10.0.0.5/com.a.Foo?side=consumer, consumer://10.0.0.5/com.a.Foo?side=consumer",
        "tri://10.0.0.5/com.a.Foo?side=consumer, consumer://10.0.0.5/com.a.Foo?side=consumer&protocol=tri",
        "dubbo://10.0.0.5/com.a.Foo?protocol=dubbo&side=consumer, consumer://10.0.0.5/com.a.Foo?protocol=dubbo&side=consumer"})
    void consumers(String url, String want) {
        assertEquals(want, Urls.consumer(URL.valueOf(url)));
    }

    @Test
    void providersKeepWhatAUrlMayHold() {
        URL u = URL.valueOf("dubbo://10.0.0.5:20880/com.a.Foo?side=provider").addParameter("owner", "Jane Doe\n#1").addParameter("x", "a=b,c");
        assertEquals("dubbo://10.0.0.5:20880/com.a.Foo?owner=Jane Doe%0A%231&side=provider&x=a=b,c", Urls.provider(u));
    }

    @ParameterizedTest
    @CsvSource({
        "dubbo://h:1/com.a.Foo?side=provider, true, false",
        "provider://h:1/com.a.Foo?side=provider&category=configurators, false, false",
        "consumer://h/com.a.Foo?side=consumer, false, true",
        "tri://h/com.a.Foo?side=consumer, false, true",
        "override://0.0.0.0/com.a.Foo?category=configurators, false, false"})
    void kinds(String url, boolean provider, boolean consumer) {
        URL u = URL.valueOf(url);
        assertEquals(provider + " " + consumer, Urls.isProvider(u) + " " + Urls.isConsumer(u));
    }

    @Test
    void whatTheAgentSays() {
        List<URL> urls = Urls.read(Arrays.asList(
                Arrays.asList("dubbo://[::ffff:127.0.0.1]:20881/com.a.Foo?interface=com.a.Foo&group=g1", "dubbo://h:x/bad"),
                Collections.singletonList("empty://0.0.0.0/com.a.Foo?category=routers&interface=com.a.Foo")), URL.valueOf("consumer://h/com.a.Foo"), new DubboLog());
        assertEquals(Arrays.asList("[::ffff:127.0.0.1]:20881", "0.0.0.0"), urls.stream().map(URL::getAddress).collect(Collectors.toList()));
        assertEquals("g1", urls.get(0).getParameter("group"));
    }
}
