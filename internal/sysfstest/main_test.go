package sysfstest

import (
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/sysfs"
)

// TestMain is also the program that sysfs.InProcess starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == sysfs.WriteCommand {
		os.Exit(sysfs.RunWrite(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// ioctlString is ioctl(2) with a string that gives a descriptor.
func ioctlString(fd int, request uintptr, s *byte) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(s)))
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}
