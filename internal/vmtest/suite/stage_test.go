package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"vfio-hotplug/internal/vmtest"
)

// TestQuickLeavesOutWhatTakesASystem: the scenarios that boot a whole Debian call
// EachSystem.
func TestQuickLeavesOutWhatTakesASystem(t *testing.T) {
	systems := regexp.MustCompile(`(?m)^func (TestGuest\w+)(?:.*\n)(?:[^}].*\n|\n)*?.*\bEachSystem\(`)
	out := regexp.MustCompile(vmtest.SystemTests)
	found := 0
	files, err := filepath.Glob("../scenario/*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range systems.FindAllStringSubmatch(string(text), -1) {
			found++
			if !out.MatchString(match[1]) {
				t.Errorf("%s boots a whole Debian, and test-quick leaves out %s", match[1], vmtest.SystemTests)
			}
		}
	}
	if found < 3 {
		t.Errorf("%d scenarios boot a whole Debian: there were more", found)
	}
	quick := stages("newest", true)
	if last := quick[len(quick)-1]; !slices.Contains(last.args, "-skip="+vmtest.SystemTests) {
		t.Errorf("test-quick runs go test %q", last.args)
	}
}
