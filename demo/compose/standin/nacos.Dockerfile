# Stands in for nacos/nacos-server:v2.3.2 where nothing can be pulled: the same server, from Maven.
# lib and home are made by compose_test.go, which also writes the arguments.
FROM eclipse-temurin:17.0.13_11-jre-jammy
COPY lib /lib/nacos
COPY home /home/nacos
