package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// The lines of a log that are reported: what the runner begins with, and what a
// scenario ends with.
var (
	hostLine = regexp.MustCompile(`(?m)^` + hostPrefix + `(.*)$`)
	outcomes = regexp.MustCompile(`(?m)^outcomes on .*: (\d+) direct, (\d+) taken$`)
	figure   = regexp.MustCompile(`(?m)^figure: (.*)$`)
)

const hostPrefix = "host: "

// row is what came of one scenario on one kernel.
type row struct{ passed, failed, direct, taken int }

// sums is what all logs say.
type sums struct {
	rows    map[[2]string]*row // by scenario and release
	figures []string
	hosts   map[string]bool
	failed  []string // logs, of whatever run
	last    time.Time
	first   time.Time
}

// sum reads the logs in a directory. What is counted and measured is that of
// passed rounds.
func sum(dir string) (sums, error) {
	all := sums{rows: map[[2]string]*row{}, hosts: map[string]bool{}}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return all, err
	}
	for _, entry := range entries {
		r, ok := parseResult(entry.Name())
		passed, failed := strings.HasSuffix(entry.Name(), passedSuffix), strings.HasSuffix(entry.Name(), failedSuffix)
		if !ok || !passed && !failed {
			continue
		}
		path := filepath.Join(dir, entry.Name())
		text, err := os.ReadFile(path)
		if err != nil {
			return all, err
		}
		if info, err := entry.Info(); err == nil {
			all.saw(info.ModTime())
		}
		key := [2]string{r.scenario, r.release}
		if all.rows[key] == nil {
			all.rows[key] = &row{}
		}
		if failed {
			all.rows[key].failed++
			all.failed = append(all.failed, path)
			continue
		}
		all.add(all.rows[key], string(text))
	}
	return all, nil
}

func (s *sums) saw(t time.Time) {
	if s.first.IsZero() || t.Before(s.first) {
		s.first = t
	}
	if t.After(s.last) {
		s.last = t
	}
}

func (s *sums) add(r *row, text string) {
	r.passed++
	if m := outcomes.FindStringSubmatch(text); m != nil {
		direct, _ := strconv.Atoi(m[1])
		taken, _ := strconv.Atoi(m[2])
		r.direct, r.taken = r.direct+direct, r.taken+taken
	}
	for _, m := range figure.FindAllStringSubmatch(text, -1) {
		s.figures = append(s.figures, m[1])
	}
	if m := hostLine.FindStringSubmatch(text); m != nil {
		s.hosts[m[1]] = true
	}
}

// report writes report.md beside the results and shows it. It is an error if a
// round failed in this run.
func (p *proof) report(out io.Writer) error {
	all, err := sum(p.results)
	if err != nil {
		return err
	}
	var b strings.Builder
	p.head(&b, all)
	if err := all.table(&b); err != nil {
		return err
	}
	p.failures(&b, all)
	b.WriteString("\n## Figures\n\n")
	for _, line := range all.figures {
		b.WriteString("- " + line + "\n")
	}
	file := filepath.Join(p.results, "report.md")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(out, "\n%s\nThe report is %s\n", b.String(), file); err != nil {
		return err
	}
	if len(p.failed) > 0 {
		return fmt.Errorf("%d rounds failed: the logs are in %s", len(p.failed), p.results)
	}
	return nil
}

func (p *proof) head(b *strings.Builder, all sums) {
	fmt.Fprintf(b, "# Proof of vfio-hotplug\n\n- report: %s\n- rounds: from %s to %s\n- tree: %s\n",
		time.Now().Format(time.RFC3339), all.first.Format(time.RFC3339), all.last.Format(time.RFC3339), p.state)
	for _, k := range p.kernels {
		fmt.Fprintf(b, "- kernel: %s\n", k)
	}
	for _, line := range hostRange(slices.Sorted(maps.Keys(all.hosts))) {
		fmt.Fprintf(b, "- machine: %s\n", line)
	}
}

// hostRange puts the hosts that differ only by their load into one line, with
// the least and the most.
func hostRange(hosts []string) []string {
	loads := map[string][]float64{}
	for _, host := range hosts {
		machine, load, _ := strings.Cut(host, ", load ")
		value, err := strconv.ParseFloat(load, 64)
		if err != nil {
			continue
		}
		loads[machine] = append(loads[machine], value)
	}
	var lines []string
	for _, machine := range slices.Sorted(maps.Keys(loads)) {
		lines = append(lines, fmt.Sprintf("%s, load at the start of a round %.2f to %.2f", machine, slices.Min(loads[machine]), slices.Max(loads[machine])))
	}
	return lines
}

// table writes a table that reads well as text and as Markdown.
func (s sums) table(b *strings.Builder) error {
	b.WriteString("\n")
	t := tabwriter.NewWriter(b, 0, 0, 1, ' ', 0)
	fmt.Fprintln(t, "| scenario\t| kernel\t| passed\t| failed\t| direct\t| taken\t|")
	fmt.Fprintln(t, "|---\t|---\t|---\t|---\t|---\t|---\t|")
	keys := slices.SortedFunc(maps.Keys(s.rows), func(x, y [2]string) int { return slices.Compare(x[:], y[:]) })
	for _, key := range keys {
		r := s.rows[key]
		fmt.Fprintf(t, "| %s\t| %s\t| %d\t| %d\t| %d\t| %d\t|\n", key[0], key[1], r.passed, r.failed, r.direct, r.taken)
	}
	return t.Flush()
}

// failures names the rounds that failed, those of earlier runs too: that a round
// was passed later does not undo it.
func (p *proof) failures(b *strings.Builder, all sums) {
	if len(all.failed) == 0 {
		return
	}
	b.WriteString("\n## Failed rounds\n\n")
	for _, log := range all.failed {
		when := "in an earlier run"
		if slices.Contains(p.failed, log) {
			when = "in this run"
		}
		fmt.Fprintf(b, "- %s: %s\n", when, filepath.Base(log))
	}
}
