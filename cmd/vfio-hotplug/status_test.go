package main

import (
	"strings"
	"testing"

	"vfio-hotplug/internal/control"
)

func TestReasonsAreOfThoseThatNeedSomebody(t *testing.T) {
	var b strings.Builder
	err := printReasons(&b, []control.Device{
		{Address: "0000:01:00.0", Outcome: "direct", Reason: "bound"},
		{Address: "0000:02:00.0", Outcome: "refused", Reason: "in use: nvme0n1 → /", Remedy: "umount it"},
		{Address: "0000:03:00.0", Outcome: "left", Reason: "leave rule"},
		{Address: "0000:04:00.0", Outcome: "stuck", Reason: "unbind has not come back"},
	})
	const want = `
0000:02:00.0 refused: in use: nvme0n1 → /
next: umount it

0000:04:00.0 stuck: unbind has not come back
`
	if err != nil || b.String() != want {
		t.Errorf("got %q, %v; want %q", b.String(), err, want)
	}
}
