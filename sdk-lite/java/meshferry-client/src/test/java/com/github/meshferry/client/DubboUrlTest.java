package com.github.meshferry.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class DubboUrlTest {
    @ParameterizedTest
    @CsvSource(delimiter = '|', value = {
        "dubbo://10.0.0.5:20880/com.a.Foo?interface=com.a.Foo&group=g&version=1.0|dubbo|10.0.0.5|20880|com.a.Foo|g/com.a.Foo:1.0",
        "dubbo://[::ffff:127.0.0.1]:20881/p?interface=com.a.Foo&version=0.0.0|dubbo|::ffff:127.0.0.1|20881|p|com.a.Foo",
        "dubbo://[::1]/com.a.Foo|dubbo|::1|0|com.a.Foo|com.a.Foo",
        "tri://user:secret@h:1/com.a.Foo?xinterface=no&interface=com.a.Foo|tri|h|1|com.a.Foo|com.a.Foo",
        "consumer://10.0.0.5/com.a.Foo?group=*&version=*|consumer|10.0.0.5|0|com.a.Foo|*/com.a.Foo:*"})
    void parts(String url, String protocol, String host, int port, String path, String service) {
        DubboUrl u = DubboUrl.parse(url);
        assertEquals(protocol + " " + host + " " + port + " " + path + " " + service, u.protocol + " " + u.host + " " + u.port + " " + u.path + " " + u.service());
    }

    @ParameterizedTest
    @ValueSource(strings = {"", "com.a.Foo", "://h", "dubbo://h:x/p", "dubbo://h:65536/p", "dubbo://h:-1/p"})
    void bad(String url) {
        assertThrows(IllegalArgumentException.class, () -> DubboUrl.parse(url));
    }

    @Test
    void identities() {
        assertEquals("dubbo g/com.a.Foo com.a.Foo 20880", Publication.url("dubbo://h:20880/com.a.Foo?interface=com.a.Foo&group=g&timestamp=1").identity());
        assertEquals("dubbo g/com.a.Foo com.a.Foo 20880", Publication.of("com.a.Foo", 20880).protocol("dubbo").group("g").identity());
        assertEquals(" com.a.Foo:1.0", Consumer.url("consumer://h/com.a.Foo?version=1.0&timeout=5").identity());
        assertEquals(" com.a.Foo:1.0", Consumer.of("com.a.Foo").version("1.0").identity());
    }
}
