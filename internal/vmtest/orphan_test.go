package vmtest

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestGuestDiesWithItsTest kills a test program that runs a guest: QEMU must
// die with it.
func TestGuestDiesWithItsTest(t *testing.T) {
	k := Kernels(t)[0]
	if os.Getenv("VMTEST_ORPHAN") != "" {
		l := Boot(t, Config{Kernel: k})
		fmt.Printf("QEMU is %d\n", l.qemu.process.Pid)
		<-t.Context().Done() // killed before
		return
	}
	child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	child.Env = append(os.Environ(), "VMTEST_ORPHAN=1")
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	pid := 0
	lines := bufio.NewScanner(out)
	for pid == 0 && lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), "QEMU is "); ok {
			pid, err = strconv.Atoi(text)
		}
	}
	if err != nil || pid == 0 {
		t.Fatalf("the child booted no guest: %v, %v", err, lines.Err())
	}
	qemu, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(qemu)
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	child.Wait()
	// A pidfd is readable when its process is over.
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(qemu), Events: unix.POLLIN}}, 30_000)
	if err != nil || n != 1 {
		t.Errorf("QEMU outlives the test that started it: %d, %v", n, err)
	}
}
