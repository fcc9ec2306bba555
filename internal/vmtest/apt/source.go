// Package apt reads this machine's package sources and fetches packages from
// the same mirror, other suites included, with apt's own signature check and
// without changing anything on the machine.
package apt

import (
	"bufio"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// A Source is one place that packages come from (sources.list(5)).
type Source struct {
	Types      []string // "deb", "deb-src"
	URIs       []string
	Suites     []string
	Components []string
	SignedBy   string // a keyring's path, or a key itself in several lines, as it stands in the file; may be empty
}

// Sources reads sources.list and sources.list.d of an apt directory, such as
// os.DirFS("/etc/apt"). Entries that are switched off are left out.
func Sources(etc fs.FS) ([]Source, error) {
	names, err := fs.Glob(etc, "sources.list.d/*")
	if err != nil {
		return nil, err
	}
	var sources []Source
	for _, name := range append([]string{"sources.list"}, names...) {
		parse := parserFor(name)
		if parse == nil {
			continue
		}
		text, err := fs.ReadFile(etc, name)
		if err != nil {
			continue // not there or not for us: apt itself would complain
		}
		sources = append(sources, parse(string(text))...)
	}
	return sources, nil
}

func parserFor(name string) func(string) []Source {
	switch path.Ext(name) {
	case ".list":
		return parseList
	case ".sources":
		return parseDeb822
	}
	return nil
}

// parseList reads the one-line style: deb [options] uri suite component…
func parseList(text string) []Source {
	var sources []Source
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		kind, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		rest = strings.TrimSpace(rest)
		s := Source{Types: []string{kind}}
		if strings.HasPrefix(rest, "[") {
			var options string
			options, rest, _ = strings.Cut(rest[1:], "]")
			s.SignedBy = option(options, "signed-by")
		}
		words := strings.Fields(rest)
		if len(words) < 2 {
			continue
		}
		s.URIs, s.Suites, s.Components = words[:1], words[1:2], words[2:]
		sources = append(sources, s)
	}
	return sources
}

func option(options, name string) string {
	for _, word := range strings.Fields(options) {
		if key, value, _ := strings.Cut(word, "="); strings.EqualFold(key, name) {
			return value
		}
	}
	return ""
}

// parseDeb822 reads the style of stanzas with a field on each line.
func parseDeb822(text string) []Source {
	var sources []Source
	for _, stanza := range stanzas(text) {
		if strings.EqualFold(stanza["enabled"], "no") {
			continue
		}
		sources = append(sources, Source{
			Types:      strings.Fields(stanza["types"]),
			URIs:       strings.Fields(stanza["uris"]),
			Suites:     strings.Fields(stanza["suites"]),
			Components: strings.Fields(stanza["components"]),
			SignedBy:   stanza["signed-by"],
		})
	}
	return sources
}

// stanzas splits a control file (deb822(5)) into fields, their names in lower
// case. The lines of a long value keep their leading space.
func stanzas(text string) []map[string]string {
	var all []map[string]string
	var fields map[string]string
	var last string
	scan := bufio.NewScanner(strings.NewReader(text))
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		line := scan.Text()
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			fields = nil
		case fields != nil && (line[0] == ' ' || line[0] == '\t'):
			fields[last] += "\n" + line
		default:
			if fields == nil {
				fields = map[string]string{}
				all = append(all, fields)
			}
			name, value, _ := strings.Cut(line, ":")
			last = strings.ToLower(name)
			fields[last] = strings.TrimSpace(value)
		}
	}
	return all
}

// Main finds the source that has the main component of a release, known by its
// code name or one of its aliases, such as "stable".
func Main(sources []Source, codename string) (Source, bool) {
	names := []string{codename, "stable", "oldstable", "oldoldstable", "testing", "unstable", "sid"}
	for _, s := range sources {
		named := slices.ContainsFunc(s.Suites, func(suite string) bool { return slices.Contains(names, suite) })
		if named && slices.Contains(s.Types, "deb") && slices.Contains(s.Components, "main") && len(s.URIs) > 0 {
			return s, true
		}
	}
	return Source{}, false
}

// Suite is the same mirror with the main component of another suite; keyring
// serves if the source names none.
func (s Source) Suite(suite, keyring string) Source {
	signed := s.SignedBy
	if signed == "" {
		signed = keyring
	}
	return Source{Types: []string{"deb"}, URIs: s.URIs, Suites: []string{suite}, Components: []string{"main"}, SignedBy: signed}
}

// String gives the source as a stanza of a .sources file.
func (s Source) String() string {
	var b strings.Builder
	field := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s: %s\n", name, value)
		}
	}
	field("Types", strings.Join(s.Types, " "))
	field("URIs", strings.Join(s.URIs, " "))
	field("Suites", strings.Join(s.Suites, " "))
	field("Components", strings.Join(s.Components, " "))
	field("Signed-By", s.SignedBy)
	return b.String()
}
