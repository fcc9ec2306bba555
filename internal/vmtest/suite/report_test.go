package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vfio-hotplug/internal/vmtest"
)

const events = `{"Action":"start","Package":"house/p"}
{"Action":"run","Package":"house/p","Test":"TestGuestA"}
{"Action":"output","Package":"house/p","Test":"TestGuestA","Output":"=== RUN\n"}
{"Action":"pass","Package":"house/p","Test":"TestGuestA/6.1/native","Elapsed":12.5}
{"Action":"skip","Package":"house/p","Test":"TestGuestA/6.1/acpi","Elapsed":0}
{"Action":"pass","Package":"house/p","Test":"TestGuestA/6.1","Elapsed":12.5}
{"Action":"pass","Package":"house/p","Test":"TestGuestA","Elapsed":12.5}
{"Action":"fail","Package":"house/q","Test":"TestB","Elapsed":30}
{"Action":"fail","Package":"house/q","Elapsed":30}
{"Action":"fail","Package":"house/r","Elapsed":0}
`

const account = `{"What":"saved","Guest":"6.1 native","Seconds":10}
{"What":"restored","Guest":"6.1 native","Seconds":1}
{"What":"restored","Guest":"6.1 acpi","Seconds":2}
{"What":"emulator fault","Guest":"7.3 native","Fault":"Oops: int3"}
`

func TestReportSaysWhereTheTimeWent(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"events": events, "account": account} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tests, err := readResults(filepath.Join(dir, "events"))
	if err != nil {
		t.Fatal(err)
	}
	entries, err := readAccount(filepath.Join(dir, "account"))
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	report(&out, []stageResult{{"code", time.Minute, results{passed: 1000}}, {"guests", 90 * time.Second, tests}}, entries)
	want := `
== where the time went
  60.0 s  code: 1000 passed, 0 failed, 0 skipped
  90.0 s  guests: 3 passed, 2 failed, 1 skipped

guests started:
   3.0 s  2 restored, 1.5 s each
  10.0 s  1 saved, 10.0 s each
faults of the laboratory, tried again: 1
  7.3 native: emulator fault: Oops: int3

the 20 longest tests:
  30.0 s  TestB
  12.5 s  TestGuestA/6.1/native
   0.0 s  TestGuestA/6.1/acpi

house/r failed as a whole

tests: 1003 passed, 2 failed, 1 skipped
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
}

func TestAnAccountIsNotReadInPart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "account")
	if entries, err := readAccount(path); err != nil || entries != nil {
		t.Errorf("without guests: %v, %v", entries, err)
	}
	if err := os.WriteFile(path, []byte(account+"{\"What\":"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readAccount(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a line that is cut off: %v", err)
	}
}

func TestTheAccountHasWhatGuestsSayOfThemselves(t *testing.T) {
	path := filepath.Join(t.TempDir(), "account")
	t.Setenv(vmtest.AccountVar, path)
	var g vmtest.Guest
	g.Account(vmtest.Entry{What: vmtest.EmulatorFault, Fault: "one"})
	g.Account(vmtest.Entry{What: vmtest.EmulatorFault, Fault: "two"})
	entries, err := readAccount(path)
	want := []vmtest.Entry{{What: vmtest.EmulatorFault, Guest: " native", Fault: "one"}, {What: vmtest.EmulatorFault, Guest: " native", Fault: "two"}}
	if diff := cmp.Diff(want, entries); diff != "" || err != nil {
		t.Errorf("%v, account (-want +got):\n%s", err, diff)
	}
}
