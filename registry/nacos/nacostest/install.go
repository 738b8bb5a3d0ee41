package nacostest

import (
	"archive/zip"
	"context"
	"embed"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/meshferry/meshferry/internal/install"
)

// Version is a line of Nacos that can be run.
type Version string

const (
	V2 Version = "2.3.2"
	V3 Version = "3.1.0"
)

//go:embed pom-2.3.2.xml pom-3.1.0.xml java
var files embed.FS

// Distribution is an installed version: what an image of the server needs too.
type Distribution struct {
	Version Version
	Lib     string // folder with the jars of the server
	Main    string // folder with the compiled main class; empty when it is in Lib
	Agent   string // jar of the java agent that keeps the server on loopback
}

// Install fetches and compiles what is not in the cache yet. Progress goes to
// stderr.
func Install(ctx context.Context, v Version) (Distribution, error) {
	pom, err := files.ReadFile("pom-" + string(v) + ".xml")
	if err != nil {
		return Distribution{}, fmt.Errorf("install Nacos %s: no such version here: %w", v, err)
	}
	d := Distribution{Version: v}
	if d.Lib, err = install.Jars(ctx, "nacos-"+string(v), pom); err != nil {
		return Distribution{}, err
	}
	agent, err := compile(ctx, "nacos-agent", d.Lib, "Loopback")
	if err != nil {
		return Distribution{}, err
	}
	if d.Agent, err = agentJar(agent); err != nil {
		return Distribution{}, err
	}
	if v == V3 {
		d.Main, err = compile(ctx, "nacos-main", d.Lib, "Nacos3")
	}
	return d, err
}

func compile(ctx context.Context, name, lib, class string) (string, error) {
	source, err := files.ReadFile("java/" + class + ".java")
	if err != nil {
		return "", fmt.Errorf("install %s: %w", name, err)
	}
	return install.Classes(ctx, name, lib, map[string][]byte{class + ".java": source})
}

// agentJar packs compiled classes as a java agent.
func agentJar(classes string) (string, error) {
	dir, err := install.Once("nacos-agent-jar", []byte(filepath.Base(classes)), func(dir string) error {
		f, err := os.Create(filepath.Join(dir, "loopback.jar"))
		if err != nil {
			return err
		}
		defer f.Close()
		z := zip.NewWriter(f)
		manifest, err := z.Create("META-INF/MANIFEST.MF")
		if err != nil {
			return err
		}
		if _, err := io.WriteString(manifest, "Manifest-Version: 1.0\nPremain-Class: Loopback\n"); err != nil {
			return err
		}
		if err := z.AddFS(os.DirFS(classes)); err != nil {
			return err
		}
		return z.Close()
	})
	return filepath.Join(dir, "loopback.jar"), err
}

// Settings of a server's folder.
type Settings struct {
	Port    int    // HTTP; gRPC is at +1000, the cluster's at +1001, JRaft at -1000
	Console int    // V3: port of the console; not 0
	Address string // where HTTP listens; empty: everywhere
	Auth    bool   // logins are checked
	Secret  string // tokens are signed with it; at least 32 bytes
}

// Prepare writes the configuration of a server into home/conf; data, logs and
// the rest will be in home too.
func (d Distribution) Prepare(home string, s Settings) error {
	conf := filepath.Join(home, "conf")
	if err := os.MkdirAll(conf, 0o755); err != nil {
		return err
	}
	module := "nacos-console"
	if d.Version == V3 {
		module = "nacos-config"
	}
	schema, err := d.resource(module, "META-INF/derby-schema.sql")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(conf, "derby-schema.sql"), schema, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(conf, "application.properties"), []byte(d.properties(home, s)), 0o644)
}

// resource reads a file of one of the server's jars.
func (d Distribution) resource(module, name string) ([]byte, error) {
	jars, err := filepath.Glob(filepath.Join(d.Lib, module+"-"+string(d.Version)+"*.jar"))
	if err != nil || len(jars) != 1 {
		return nil, fmt.Errorf("jar of %s: found %q, %v", module, jars, err)
	}
	z, err := zip.OpenReader(jars[0])
	if err != nil {
		return nil, err
	}
	defer z.Close()
	f, err := z.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// Args are the arguments of java for a server in home.
func (d Distribution) Args(home string) []string {
	path := []string{filepath.Join(d.Lib, "hessian-4.0.63.jar")} // before hessian-3: both are needed, this one first
	main := "com.alibaba.nacos.Nacos"
	if d.Main != "" {
		path, main = append(path, d.Main), "Nacos3"
	}
	path = append(path, filepath.Join(d.Lib, "*"))
	return []string{
		"-Xms64m", "-Xmx320m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.net.preferIPv4Stack=true",
		"-Dnacos.standalone=true", "-Dnacos.deployment.type=merged", "-Dnacos.home=" + home, "-Dnacos.logs.path=" + filepath.Join(home, "logs"), "-Duser.home=" + home,
		"-cp", strings.Join(path, string(filepath.ListSeparator)), main,
		"--spring.config.additional-location=file:" + filepath.Join(home, "conf") + "/",
	}
}
