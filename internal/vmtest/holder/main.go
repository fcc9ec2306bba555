// Holder is a program that drives a device through vfio, as far as the kernel
// can tell: it opens the group's node, then the device, and keeps both until
// its standard input ends or a signal comes.
//
//	holder /dev/vfio/GROUP ADDRESS
package main

import (
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// include/uapi/linux/vfio.h: _IO(';', 100) and what follows it.
const (
	setIOMMU     = 0x3b66
	setContainer = 0x3b68
	getDevice    = 0x3b6a

	type1v2 = 3
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: holder /dev/vfio/GROUP ADDRESS")
		os.Exit(2)
	}
	if err := open(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "holder: "+err.Error())
		os.Exit(1)
	}
	fmt.Println("holds", os.Args[2])
	for {
		time.Sleep(time.Hour)
	}
}

// open opens a device and leaves all descriptors open.
func open(node, address string) error {
	container, err := unix.Open("/dev/vfio/vfio", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the container: %w", err)
	}
	group, err := unix.Open(node, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", node, err)
	}
	if err := unix.IoctlSetPointerInt(group, setContainer, container); err != nil {
		return fmt.Errorf("put %s into the container: %w", node, err)
	}
	if err := unix.IoctlSetInt(container, setIOMMU, type1v2); err != nil {
		return fmt.Errorf("set the IOMMU: %w", err)
	}
	name, err := unix.BytePtrFromString(address)
	if err != nil {
		return err
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(group), getDevice, uintptr(unsafe.Pointer(name)))
	runtime.KeepAlive(name)
	if errno != 0 {
		return fmt.Errorf("open %s: %w", address, errno)
	}
	return nil
}
