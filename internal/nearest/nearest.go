// Package nearest finds the known name that somebody probably meant.
package nearest

import (
	"fmt"
	"strings"

	"github.com/agnivade/levenshtein"
)

// Name is the known name that is most like name, or empty when none is.
func Name(name string, known []string) string {
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

// DidYouMean is a question to put behind an error, or empty when no known name
// is like name.
func DidYouMean(name string, known []string) string {
	if n := Name(name, known); n != "" {
		return fmt.Sprintf(" (did you mean %q?)", n)
	}
	return ""
}
