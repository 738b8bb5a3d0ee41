package istio

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Place is where something stands in the folder.
type Place struct {
	File string `json:"file"`
	Line int    `json:"line"`
}

// String is "file:line".
func (p Place) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d", p.File, p.Line)
}

// Problem is something in the folder that is wrong, or that has no effect.
type Problem struct {
	Place   Place  `json:"place"`
	Warning bool   `json:"warning"` // the folder can be served all the same
	Field   string `json:"field"`   // "spec.http[0].timeout"; may be empty
	Text    string `json:"text"`
}

// String is one line of a report.
func (p Problem) String() string {
	s := p.Place.String() + ": "
	if p.Warning {
		s += "warning: "
	}
	if p.Field != "" {
		s += p.Field + ": "
	}
	return s + p.Text
}

// Problems is what Parse found, by place, errors and warnings together.
type Problems []Problem

func (ps Problems) sort() {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Place.File, b.Place.File), cmp.Compare(a.Place.Line, b.Place.Line))
	})
}

// Errors are those that keep the folder from being served.
func (ps Problems) Errors() Problems {
	return slices.DeleteFunc(slices.Clone(ps), func(p Problem) bool { return p.Warning })
}

// Err is nil when there is no error, else it has a line for each.
func (ps Problems) Err() error {
	errs := ps.Errors()
	if len(errs) == 0 {
		return nil
	}
	lines := make([]string, len(errs))
	for i, p := range errs {
		lines[i] = p.String()
	}
	return fmt.Errorf("%s", strings.Join(lines, "\n"))
}
