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

// report says where the time went. Its last line is the count of all tests.
func report(out io.Writer, stages []took, tests results, entries []vmtest.Entry) {
	fmt.Fprintln(out, "\n== where the time went")
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, s := range stages {
		fmt.Fprintf(table, "%s\t  %s\n", seconds(s.time), s.name)
	}
	table.Flush()
	reportStarts(out, entries)
	fmt.Fprintf(out, "\nthe %d longest tests:\n", longest)
	slices.SortFunc(tests.leaves, func(a, b took) int {
		return cmp.Or(cmp.Compare(b.time, a.time), cmp.Compare(a.name, b.name))
	})
	for _, t := range tests.leaves[:min(longest, len(tests.leaves))] {
		fmt.Fprintf(table, "%s\t  %s\n", seconds(t.time), t.name)
	}
	table.Flush()
	fmt.Fprintf(out, "\ntests: %d passed, %d failed, %d skipped\n", tests.passed, tests.failed, tests.skipped)
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
		if e.What != vmtest.EmulatorFault {
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
	faults := slices.DeleteFunc(slices.Clone(entries), func(e vmtest.Entry) bool { return e.What != vmtest.EmulatorFault })
	fmt.Fprintf(out, "faults of the emulator, tried again: %d\n", len(faults))
	for _, e := range faults {
		fmt.Fprintf(out, "  %s: %s\n", e.Guest, e.Fault)
	}
}
