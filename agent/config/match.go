package config

import (
	"errors"
	"strings"

	"github.com/meshferry/meshferry/registry"
)

// matches compares with the whole key if the pattern has a group or version, else
// with the interface.
func (rule Service) matches(s registry.Service) bool {
	if strings.ContainsAny(rule.Match, "/:") {
		return glob(rule.Match, s.Key())
	}
	return glob(rule.Match, s.Interface)
}

// glob tells whether pattern, in which '*' is any text, is all of s.
func glob(pattern, s string) bool {
	first, rest, found := strings.Cut(pattern, "*")
	if !found {
		return pattern == s
	}
	s, found = strings.CutPrefix(s, first)
	if !found {
		return false
	}
	parts := strings.Split(rest, "*")
	for _, part := range parts[:len(parts)-1] {
		_, after, ok := strings.Cut(s, part)
		if !ok {
			return false
		}
		s = after
	}
	return strings.HasSuffix(s, parts[len(parts)-1])
}

func checkPattern(pattern string) error {
	if pattern == "" || len(pattern) > 512 {
		return errors.New("want 1 to 512 characters")
	}
	if strings.ContainsAny(pattern, "?& \t\r\n,") {
		return errors.New("want [group/]interface[:version], with * for any text")
	}
	return nil
}
