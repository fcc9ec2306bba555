package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"vfio-hotplug/internal/vmtest"
)

// repository makes a git repository with one commit the working directory.
func repository(t *testing.T) {
	t.Helper()
	t.Chdir(t.TempDir())
	write(t, "a.go", "a")
	write(t, ".gitignore", "ignored\n")
	for _, args := range [][]string{
		{"init", "-q"}, {"add", "."},
		{"-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-q", "-m", "x"},
	} {
		if out, err := exec.Command("git", args...).CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestTheStateIsOfEverythingThatMatters(t *testing.T) {
	for name, test := range map[string]struct {
		change func(t *testing.T)
		same   bool
	}{
		"nothing":           {func(*testing.T) {}, true},
		"an ignored file":   {func(t *testing.T) { write(t, "ignored", "x") }, true},
		"a change":          {func(t *testing.T) { write(t, "a.go", "b") }, false},
		"an untracked file": {func(t *testing.T) { write(t, "b.go", "b") }, false},
		"a removal": {func(t *testing.T) {
			if err := os.Remove("a.go"); err != nil {
				t.Fatal(err)
			}
		}, false},
		"a mode": {func(t *testing.T) {
			if err := os.Chmod("a.go", 0o755); err != nil {
				t.Fatal(err)
			}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			repository(t)
			before, err := readState(t.Context())
			if err != nil || before.changed {
				t.Fatalf("clean: %+v, %v", before, err)
			}
			test.change(t)
			after, err := readState(t.Context())
			if err != nil || (after == before) != test.same || after.changed == test.same {
				t.Errorf("before %+v, after %+v, %v", before, after, err)
			}
		})
	}
}

// script makes a stand-in for the compiled scenarios.
func script(t *testing.T, text string) *proof {
	t.Helper()
	p := &proof{results: t.TempDir(), programs: t.TempDir(), kernels: []vmtest.Kernel{{Name: "6.1", Release: "6.1.0-50-amd64"}}}
	if err := os.WriteFile(p.scenarios(), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	if err := os.MkdirAll("internal/vmtest/scenario", 0o755); err != nil {
		t.Fatal(err)
	}
	return p
}

const passes = `echo "    x.go:1: 6.1 (6.1.0-50-amd64), native hot-plug: up"
echo "--- PASS: TestGuestX (1.00s)"
echo PASS
echo "figure: x on $GUESTS, proof $PROOF, from $VMTEST_PROGRAMS"
echo "outcomes on 6.1: 3 direct, 1 taken"
`

func once(t *testing.T, p *proof) string {
	t.Helper()
	var out strings.Builder
	if err := p.once(t.Context(), &out, result{"TestGuestX", "6.1.0-50-amd64", 1}, p.kernels[0]); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestAPassedRoundIsRunOnce(t *testing.T) {
	p := script(t, passes)
	if said := once(t, p); !strings.HasSuffix(said, "ok\n") {
		t.Errorf("said %q", said)
	}
	if said := once(t, p); said != "" {
		t.Errorf("a second time: %q", said)
	}
	var out strings.Builder
	if err := p.report(&out); err != nil {
		t.Fatal(err)
	}
	report, err := os.ReadFile(filepath.Join(p.results, "report.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"- kernel: 6.1 (6.1.0-50-amd64)\n",
		"- machine: ",
		"- x on 6.1, proof 1, from " + p.programs + "\n",
		"| TestGuestX | 6.1.0-50-amd64 | 1      | 0      | 3      | 1     |\n",
	} {
		if !strings.Contains(string(report), want) {
			t.Errorf("the report has no %q:\n%s", want, report)
		}
	}
	if !strings.Contains(out.String(), filepath.Join(p.results, "report.md")) {
		t.Error("it is not said where the report is")
	}
}

func TestAFailedRoundIsKeptAndRunAgain(t *testing.T) {
	for name, text := range map[string]string{
		"exit code":      passes + "exit 1\n",
		"skipped":        "echo '--- SKIP: TestGuestX (0.00s)'\necho PASS\n",
		"another kernel": strings.ReplaceAll(passes, "50-amd64", "51-amd64"),
	} {
		t.Run(name, func(t *testing.T) {
			p := script(t, text)
			if said := once(t, p); !strings.Contains(said, "FAILED") {
				t.Errorf("said %q", said)
			}
			var out strings.Builder
			if err := p.report(&out); err == nil {
				t.Error("a failed round is no error")
			}
			if !strings.Contains(out.String(), "- in this run: TestGuestX@6.1.0-50-amd64@1.") || strings.Contains(out.String(), "x on 6.1") {
				t.Errorf("the report:\n%s", out.String())
			}

			// The next run.
			write(t, p.scenarios(), "#!/bin/sh\n"+passes)
			p.failed = nil
			if said := once(t, p); !strings.HasSuffix(said, "ok\n") {
				t.Errorf("the next run said %q", said)
			}
			out.Reset()
			if err := p.report(&out); err != nil {
				t.Error(err)
			}
			if !strings.Contains(out.String(), "- in an earlier run: TestGuestX@") {
				t.Errorf("the report:\n%s", out.String())
			}
		})
	}
}
