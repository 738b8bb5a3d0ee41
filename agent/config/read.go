package config

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
)

// Read loads the settings on this machine: the environment, the file that the
// flag "config" or MESHFERRY_CONFIG names, and the address of this machine if
// nobody sets one.
func Read(flags map[string][]string) (Config, error) {
	in := Input{Flags: flags, Env: os.Environ(), UID: os.Getuid()}
	in.File = lookup(in.Env, prefix+"CONFIG")
	if given := flags["config"]; len(given) > 0 {
		in.File = given[len(given)-1]
	}
	if in.File != "" {
		f, err := os.Open(in.File)
		if err != nil {
			return Config{}, fmt.Errorf("configuration: %w", err)
		}
		defer f.Close()
		if in.Text, err = io.ReadAll(io.LimitReader(f, maxFile+1)); err != nil {
			return Config{}, fmt.Errorf("configuration: %w", err)
		}
	}
	c, err := Load(in)
	if err == nil && c.Address == "" {
		c.Address, err = defaultAddress()
	}
	return c, err
}

// defaultAddress is the address of the interface that the default route uses. It
// asks the kernel by connecting a UDP socket to an address for documentation
// (RFC 5737, RFC 3849); that sends nothing.
func defaultAddress() (string, error) {
	var errs []error
	for _, to := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} {
		c, err := net.Dial("udp", to)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		defer c.Close()
		ip := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
		if ip.IsGlobalUnicast() {
			return ip.String(), nil
		}
		errs = append(errs, fmt.Errorf("the route to others begins at %s, which they cannot dial", ip))
	}
	return "", fmt.Errorf("this machine's address cannot be told: set --address to the one that other hosts dial (127.0.0.1 if there are none): %w", errors.Join(errs...))
}
