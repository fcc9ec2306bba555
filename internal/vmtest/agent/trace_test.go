package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vfio-hotplug/internal/vmtest/wire"
)

func TestParseTrace(t *testing.T) {
	const head = `# tracer: nop
#
# entries-in-buffer/entries-written: 3/3   #P:2
#
#           TASK-PID       TGID   CPU#  |||||  TIMESTAMP  FUNCTION
#              | |           |      |   |||||     |         |
`
	const plain = `              sh-142     (    142) [000] .....    12.345678: syswrite: (kernfs_fop_write_iter+0x0/0x1a0) comm="sh" n0="unbind" n1="nvme" n2="drivers" n3="pci" n4="bus" n5="/" n6="/" type=0 size=13 data="0000:01:00.0
"
`
	const odd = `           <...>-7       (-------) [001] d.h1.     1.000000: syswrite: (kernfs_fop_write_iter+0x0/0x1a0) comm="a-1 n0="x" n0="f" n1="/" n2="/" type=0 size=9 data="a" data="bXXXXXX"
`
	const unread = `            tool-9     (      8) [001] .....     2.500000: syswrite: (kernfs_fop_write_iter+0x0/0x1a0) comm="tool" n0="f" n1="/" type=0 size=1 data=(fault)
`
	const vector = `            tool-9     (      8) [001] .....     2.500000: syswrite: (kernfs_fop_write_iter+0x0/0x1a0) comm="tool" n0="f" n1="/" type=1 size=1 data="garbage"
`
	for name, test := range map[string]struct {
		text string
		want []wire.SysWrite
	}{
		"nothing": {head, []wire.SysWrite{}},
		"a line feed in the data": {head + plain + plain, []wire.SysWrite{
			{Time: 12345678 * time.Microsecond, Command: "sh", TID: 142, PID: 142, Path: "bus/pci/drivers/nvme/unbind", Data: "0000:01:00.0\n", Known: true, Size: 13},
			{Time: 12345678 * time.Microsecond, Command: "sh", TID: 142, PID: 142, Path: "bus/pci/drivers/nvme/unbind", Data: "0000:01:00.0\n", Known: true, Size: 13},
		}},
		"more memory than was written": {odd, []wire.SysWrite{
			{Time: time.Second, Command: `a-1 n0="x`, TID: 7, PID: processOf(7, "-------"), Path: "f", Data: `a" data="`, Known: true, Size: 9},
		}},
		"data that could not be read": {unread, []wire.SysWrite{{Time: 2500 * time.Millisecond, Command: "tool", TID: 9, PID: 8, Path: "f", Size: 1}}},
		"not a plain buffer":          {vector, []wire.SysWrite{{Time: 2500 * time.Millisecond, Command: "tool", TID: 9, PID: 8, Path: "f", Size: 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseTrace(test.text, 0)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("writes (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheProcessOfAThreadThatRuns(t *testing.T) {
	if got := processOf(os.Getpid(), "-------"); got != os.Getpid() {
		t.Errorf("process of our first thread: %d, want %d", got, os.Getpid())
	}
}

// The kernel takes no argument longer than this (kernel/trace/trace_probe.h).
func TestTheProbeFitsTheKernel(t *testing.T) {
	const longest = 63
	o := offsets{kiocbFile: 0, fileDentry: 152, dentryName: 40, dentryParent: 24, iterType: 0, iterBuffer: 16, iterCount: 24}
	for _, argument := range strings.Fields(o.probe(mostLevels))[2:] {
		if len(argument) > longest {
			t.Errorf("%q has %d characters, the kernel takes %d", argument, len(argument), longest)
		}
	}
}
