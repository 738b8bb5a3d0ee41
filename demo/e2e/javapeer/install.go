package javapeer

import (
	"bytes"
	"context"
	"embed"
	"io/fs"
	"strings"

	"github.com/meshferry/meshferry/internal/install"
)

// Line is a version of Java Dubbo, the newest of its line.
type Line string

// The lines that fleets run.
const (
	V27 Line = "2.7.23"
	V32 Line = "3.2.19"
	V33 Line = "3.3.6"
)

// libraries are the clients of registries that the lines want. With 2.7's own one,
// ZooKeeper 3.4.13, nothing connects on Java 17.
var libraries = map[Line][]string{
	V27: {"org.apache.curator:curator-recipes:4.2.0", "org.apache.curator:curator-x-discovery:4.2.0", "org.apache.zookeeper:zookeeper:3.5.10", nacosClient},
	V32: {"org.apache.curator:curator-x-discovery:5.9.0", nacosClient},
	V33: {"org.apache.curator:curator-x-discovery:5.9.0", nacosClient},
}

// nacosClient is for all lines. Its jackson-core is older than the databind of
// others, so each takes its jackson from those.
const nacosClient = "com.alibaba.nacos:nacos-client:2.3.2"

// logging is for all lines.
const logging = "org.slf4j:slf4j-simple:1.7.36"

//go:embed java
var sources embed.FS

// Install makes a line ready to be started, with progress on standard error, and
// gives its class path.
func Install(ctx context.Context, line Line) (classPath string, err error) {
	jars, err := install.Jars(ctx, "dubbo-"+string(line), pom(line))
	if err != nil {
		return "", err
	}
	files := map[string][]byte{}
	err = fs.WalkDir(sources, ".", func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			files[path], err = sources.ReadFile(path)
		}
		return err
	})
	if err != nil {
		return "", err
	}
	classes, err := install.Classes(ctx, "javapeer-"+string(line), jars, files)
	if err != nil {
		return "", err
	}
	return classes + ":" + jars + "/*", nil
}

func pom(line Line) []byte {
	var b bytes.Buffer
	b.WriteString(`<project xmlns="http://maven.apache.org/POM/4.0.0">
<modelVersion>4.0.0</modelVersion>
<groupId>com.github.meshferry</groupId><artifactId>javapeer</artifactId><version>1</version><packaging>pom</packaging>
<dependencies>
`)
	for _, library := range append([]string{"org.apache.dubbo:dubbo:" + string(line), logging}, libraries[line]...) {
		part := strings.Split(library, ":")
		b.WriteString("<dependency><groupId>" + part[0] + "</groupId><artifactId>" + part[1] + "</artifactId><version>" + part[2] + "</version>")
		if library == nacosClient {
			b.WriteString("<exclusions><exclusion><groupId>com.fasterxml.jackson.core</groupId><artifactId>*</artifactId></exclusion></exclusions>")
		}
		b.WriteString("</dependency>\n")
	}
	b.WriteString(`</dependencies>
<build><plugins><plugin>
<groupId>org.apache.maven.plugins</groupId><artifactId>maven-dependency-plugin</artifactId><version>3.6.1</version>
</plugin></plugins></build>
</project>
`)
	return b.Bytes()
}
