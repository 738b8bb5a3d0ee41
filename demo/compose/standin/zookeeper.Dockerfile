# Stands in for zookeeper:3.9.4 where nothing can be pulled: the same server, from Maven.
FROM eclipse-temurin:17.0.13_11-jre-jammy
COPY lib /lib/zookeeper
COPY zoo.cfg /conf/
VOLUME /data
ENTRYPOINT ["java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", \
    "-cp", "/lib/zookeeper/*", "org.apache.zookeeper.server.quorum.QuorumPeerMain", "/conf/zoo.cfg"]
