package sysfs

import (
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Every network namespace has an interface lo below devices/virtual/net, and
// each view of sysfs lists its own.
func TestSubdirsCountsWhatOtherNetworkNamespacesHave(t *testing.T) {
	child := exec.Command("cat") // until its input ends
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if os.Getuid() != 0 {
		child.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
	}
	input, err := child.StdinPipe()
	must(t, err)
	if err := child.Start(); err != nil {
		t.Skipf("no network namespace may be made here: %v", err)
	}
	defer child.Wait()
	defer io.Closer(input).Close()

	d := openRoot(t, "/sys")
	const net = "devices/virtual/net"
	listed, err := d.List(net)
	must(t, err)
	shown := 0
	for _, name := range listed {
		if below, err := d.Open(net + "/" + name); err == nil && name != "." && name != ".." {
			shown++
			must(t, below.Close())
		}
	}
	count, err := d.Subdirs(net)
	must(t, err)
	if shown == 0 || count <= shown {
		t.Errorf("%d interfaces counted, %d listed; want more counted than listed", count, shown)
	}
}
