package inuse

import (
	"errors"
	"strings"
	"syscall"
	"testing"
)

func TestAReportIsOneLine(t *testing.T) {
	var r Report
	r.use(Mount, "nvme0n1", "/a\nb")
	r.doubt("", "%v", errors.Join(syscall.EIO, syscall.ENOMEM))
	r.unchecked("%s", "c\r\nd\n")
	const want = `nvme0n1 → "/a\nb"; input/output error; cannot allocate memory; not checked: c; d`
	if got := r.String(); got != want || strings.Contains(r.Remedy(), "\n") {
		t.Errorf("report\n%s\nwant\n%s", got, want)
	}
	if err := both(syscall.EIO, syscall.ENOMEM); err.Error() != "input/output error; cannot allocate memory" || !errors.Is(err, syscall.ENOMEM) {
		t.Errorf("two errors: %v", err)
	}
}
