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

// results are those of tests and of their subtests, as go test counts them.
type results struct {
	passed, failed, skipped int
	leaves                  []took // tests without subtests
}

// event is a line of go test -json (go doc test2json).
type event struct {
	Action  string
	Package string
	Test    string
	Elapsed float64 // seconds
}

// read adds the results in a file of events.
func (r *results) read(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	ended := map[string]event{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if e.Test == "" {
			continue
		}
		switch e.Action {
		case "pass":
			r.passed++
		case "fail":
			r.failed++
		case "skip":
			r.skipped++
		default:
			continue
		}
		ended[e.Package+" "+e.Test] = e
	}
	r.addLeaves(ended)
	return lines.Err()
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
