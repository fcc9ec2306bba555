package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"vfio-hotplug/internal/vmtest"
)

// longest is how many tests the report names.
const longest = 20

// report says what came of the stages and where the time went. Its last line counts
// the tests of all stages: one that two of them run counts twice.
func report(out io.Writer, stages []stageResult, entries []vmtest.Entry) {
	fmt.Fprintln(out, "\n== where the time went")
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	var all results
	for _, s := range stages {
		fmt.Fprintf(table, "%s\t  %s: %d passed, %d failed, %d skipped\n", seconds(s.time), s.name, s.passed, s.failed, s.skipped)
		all.passed, all.failed, all.skipped = all.passed+s.passed, all.failed+s.failed, all.skipped+s.skipped
		all.broken, all.leaves = append(all.broken, s.broken...), append(all.leaves, s.leaves...)
	}
	table.Flush()
	reportStarts(out, entries)
	fmt.Fprintf(out, "\nthe %d longest tests:\n", longest)
	slices.SortFunc(all.leaves, func(a, b took) int {
		return cmp.Or(cmp.Compare(b.time, a.time), cmp.Compare(a.name, b.name))
	})
	for _, t := range all.leaves[:min(longest, len(all.leaves))] {
		fmt.Fprintf(table, "%s\t  %s\n", seconds(t.time), t.name)
	}
	table.Flush()
	for _, name := range all.broken {
		fmt.Fprintf(out, "\n%s failed as a whole\n", name)
	}
	fmt.Fprintf(out, "\ntests: %d passed, %d failed, %d skipped\n", all.passed, all.failed, all.skipped)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// reportStarts sums up how guests were started.
func reportStarts(out io.Writer, entries []vmtest.Entry) {
	fmt.Fprintln(out, "\nguests started:")
	type sum struct {
		count int
		time  time.Duration
	}
	sums := map[string]sum{}
	for _, e := range entries {
		if e.Fault == "" {
			s := sums[e.What]
			sums[e.What] = sum{s.count + 1, s.time + time.Duration(e.Seconds*float64(time.Second))}
		}
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, what := range slices.Sorted(maps.Keys(sums)) {
		s := sums[what]
		fmt.Fprintf(table, "%s\t  %d %s, %s each\n", seconds(s.time), s.count, what, seconds(s.time/time.Duration(s.count)))
	}
	table.Flush()
	faults := slices.DeleteFunc(slices.Clone(entries), func(e vmtest.Entry) bool { return e.Fault == "" })
	fmt.Fprintf(out, "faults of the laboratory, tried again: %d\n", len(faults))
	for _, e := range faults {
		fmt.Fprintf(out, "  %s: %s: %s\n", e.Guest, e.What, e.Fault)
	}
}
