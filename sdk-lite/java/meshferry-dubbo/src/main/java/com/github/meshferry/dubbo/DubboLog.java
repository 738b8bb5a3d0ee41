package com.github.meshferry.dubbo;

import com.github.meshferry.client.Log;
import org.apache.dubbo.common.logger.Logger;
import org.apache.dubbo.common.logger.LoggerFactory;

/** Writes into the application's log, through Dubbo. */
final class DubboLog implements Log {
    private final Logger log = LoggerFactory.getLogger("com.github.meshferry");

    @Override
    public void debug(String text) {
        log.debug(text);
    }

    @Override
    public void info(String text) {
        log.info(text);
    }

    @Override
    public void warn(String text) {
        log.warn(text);
    }
}
