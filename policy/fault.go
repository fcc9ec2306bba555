package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Fault is one thing that is wrong with a policy.
type Fault struct {
	File    string // as the caller named it
	Line    int    // from 1; 0 if the file could not be read at all
	Column  int    // from 1, in bytes as compilers count; 0 with Line 0
	Text    string // what stands there, shortened, on one line; may be ""
	Message string // what is wrong with it, and what was probably meant
	Err     error  // why the file could not be read, or nil
}

// Error gives one line: file:line:column: text: message.
func (f Fault) Error() string {
	var b strings.Builder
	b.WriteString(f.File)
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", f.Line, f.Column)
	}
	b.WriteString(": ")
	if f.Text != "" {
		b.WriteString(f.Text + ": ")
	}
	b.WriteString(f.Message)
	return b.String()
}

// Unwrap gives the cause of a file that could not be read.
func (f Fault) Unwrap() error { return f.Err }

// Faults is everything that is wrong with a policy, by file in the order of
// loading, then by place. It is never empty where it is returned as an error.
type Faults []Fault

// Error gives one line for each fault.
func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, fault := range f {
		lines[i] = fault.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives the single faults.
func (f Faults) Unwrap() []error {
	errs := make([]error, len(f))
	for i, fault := range f {
		errs[i] = fault
	}
	return errs
}

// byPlace orders the faults of one file.
func byPlace(faults []Fault) []Fault {
	slices.SortStableFunc(faults, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return faults
}

// excerpt makes text fit for one line of a message.
func excerpt[T string | []byte](text T) string {
	const most = 60
	s := string(text[:min(len(text), most*utf8.UTFMax+1)])
	if cut, _, more := strings.Cut(s, "\n"); more {
		s = strings.TrimRight(cut, " \t\r") + "…"
	}
	if runes := []rune(s); len(runes) > most {
		s = string(runes[:most]) + "…"
	}
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}
