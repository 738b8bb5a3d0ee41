package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// format is how an answer is printed.
type format string

const (
	formatText format = "text"
	formatJSON format = "json"
)

func (f *format) flag(cmd *cobra.Command) {
	*f = formatText
	cmd.Flags().VarP(f, "output", "o", "text or json")
}

// String, Set and Type make it a flag.
func (f *format) String() string { return string(*f) }

// Set takes "text" or "json".
func (f *format) Set(s string) error {
	switch format(s) {
	case formatText, formatJSON:
		*f = format(s)
		return nil
	}
	return fmt.Errorf("want text or json")
}

// Type is shown in the help.
func (f *format) Type() string { return "format" }

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// printer writes aligned columns. Its first error is kept and the rest not
// written, so that only the end must look.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

// table writes rows under a header. Columns in which no row has anything are
// left out. Control characters become visible.
func (p *printer) table(header []string, rows [][]string) {
	used := make([]bool, len(header))
	for _, row := range rows {
		for i, cell := range row {
			used[i] = used[i] || cell != ""
		}
	}
	var lines []string
	for _, row := range append([][]string{header}, rows...) {
		var cells []string
		for i, cell := range row {
			if used[i] {
				cells = append(cells, visible(cell))
			}
		}
		lines = append(lines, strings.Join(cells, "\t"))
	}
	p.aligned(lines)
}

// aligned writes lines whose cells are divided by tabs.
func (p *printer) aligned(lines []string) {
	var b strings.Builder // writing to it does not fail
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, line := range lines {
		fmt.Fprintln(t, line)
	}
	t.Flush()
	for line := range strings.Lines(b.String()) {
		p.line("%s", strings.TrimRight(line, " \n"))
	}
}

// facts writes names and values below each other; those without a value are left
// out.
func (p *printer) facts(pairs ...string) {
	var lines []string
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			lines = append(lines, pairs[i]+"\t"+visible(pairs[i+1]))
		}
	}
	p.aligned(lines)
}

// visible keeps what others wrote from moving the cursor.
func visible(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f || c >= 0x80 && c < 0xa0 {
			return '?'
		}
		return c
	}, s)
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
