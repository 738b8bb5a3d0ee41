package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
)

// nearest is the known name that is most like name, or empty when none is.
func nearest(name string, known []string) string {
	most := max(2, len(name)/3) // letters that may differ
	if len(name) < 4 {
		most = 1
	}
	best, least := "", most+1
	for _, k := range known {
		if d := levenshtein.ComputeDistance(strings.ToLower(name), strings.ToLower(k)); d < least {
			best, least = k, d
		}
	}
	return best
}

func didYouMean(name string, known []string) string {
	if n := nearest(name, known); n != "" {
		return fmt.Sprintf(" (did you mean %q?)", n)
	}
	return ""
}

// suggest is didYouMean for a path of keys: among those of the same level, else
// a key of another level with such a last part, else it lists the level.
func suggest(key string, level, all []string) string {
	last := func(key string) string { return key[strings.LastIndexByte(key, '.')+1:] }
	if s := didYouMean(last(key), level); s != "" {
		return s
	}
	for _, k := range all {
		if strings.EqualFold(last(k), last(key)) {
			return fmt.Sprintf(" (did you mean %q?)", k)
		}
	}
	for _, k := range all {
		if nearest(last(key), []string{last(k)}) != "" {
			return fmt.Sprintf(" (did you mean %q?)", k)
		}
	}
	slices.Sort(level)
	return fmt.Sprintf(" (known here: %s)", strings.Join(slices.Compact(level), ", "))
}
