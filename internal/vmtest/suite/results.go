package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"vfio-hotplug/internal/vmtest"
)

// took is how long something took.
type took struct {
	name string
	time time.Duration
}

// stageResult is what came of a stage.
type stageResult struct {
	name string
	time time.Duration
	results
}

// results are those of tests and of their subtests, as go test counts them. A
// package that failed by no test of its own, such as one that does not compile,
// counts as a test.
type results struct {
	passed, failed, skipped int
	broken                  []string // packages that failed
	leaves                  []took   // tests without subtests
}

// event is a line of go test -json (go doc test2json).
type event struct {
	Action  string
	Package string
	Test    string
	Elapsed float64 // seconds
}

// readResults reads the results in a file of events.
func readResults(path string) (results, error) {
	var r results
	f, err := os.Open(path)
	if err != nil {
		return r, err
	}
	defer f.Close()
	ended := map[string]event{}
	failed := map[string]bool{} // packages of which a test failed
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return r, fmt.Errorf("%s: %w", path, err)
		}
		if e.Test == "" {
			if e.Action == "fail" && !failed[e.Package] {
				r.failed++
				r.broken = append(r.broken, e.Package)
			}
			continue
		}
		switch e.Action {
		case "pass":
			r.passed++
		case "fail":
			r.failed++
			failed[e.Package] = true
		case "skip":
			r.skipped++
		default:
			continue
		}
		ended[e.Package+" "+e.Test] = e
	}
	r.addLeaves(ended)
	return r, lines.Err()
}

func (r *results) addLeaves(ended map[string]event) {
	parents := map[string]bool{}
	for name := range ended {
		if cut := strings.LastIndexByte(name, '/'); cut > strings.IndexByte(name, ' ') {
			parents[name[:cut]] = true
		}
	}
	for name, e := range ended {
		if !parents[name] {
			r.leaves = append(r.leaves, took{e.Test, time.Duration(e.Elapsed * float64(time.Second))})
		}
	}
}

// readAccount reads what guests have said of their starts. Without a guest there
// is no account.
func readAccount(path string) ([]vmtest.Entry, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var entries []vmtest.Entry
	for d := json.NewDecoder(f); ; {
		var e vmtest.Entry
		err := d.Decode(&e)
		if errors.Is(err, io.EOF) {
			return entries, nil
		}
		if err != nil {
			return entries, fmt.Errorf("%s: %w", path, err)
		}
		entries = append(entries, e)
	}
}
