package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/meshferry/meshferry/internal/nearest"
)

// suggest is nearest.DidYouMean for a path of keys: among those of the same level, else
// a key of another level with such a last part, else it lists the level.
func suggest(key string, level, all []string) string {
	last := func(key string) string { return key[strings.LastIndexByte(key, '.')+1:] }
	if s := nearest.DidYouMean(last(key), level); s != "" {
		return s
	}
	for _, k := range all {
		if strings.EqualFold(last(k), last(key)) {
			return fmt.Sprintf(" (did you mean %q?)", k)
		}
	}
	for _, k := range all {
		if nearest.Name(last(key), []string{last(k)}) != "" {
			return fmt.Sprintf(" (did you mean %q?)", k)
		}
	}
	slices.Sort(level)
	return fmt.Sprintf(" (known here: %s)", strings.Join(slices.Compact(level), ", "))
}
