package main

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/vmtest/initramfs"
	"vfio-hotplug/internal/vmtest/wire"
)

// Unpack puts the archive in the mailbox into the root file system.
func (a *Agent) Unpack(ask wire.Unpack, reply *wire.Outcome) error {
	*reply = outcome(unpack(ask.Size))
	return nil
}

func unpack(size int) error {
	memory, err := os.OpenFile(filepath.Join("/sys/bus/pci/devices", wire.MailboxAddress, "resource2"), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer memory.Close()
	archive, err := unix.Mmap(int(memory.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return &os.PathError{Op: "mmap", Path: memory.Name(), Err: err}
	}
	defer unix.Munmap(archive)
	return initramfs.Extract(archive, "/")
}

// Resume makes a guest that was restored one of its own: with the time of day,
// and with random numbers that no other guest has.
func (a *Agent) Resume(ask wire.Resume, reply *wire.Outcome) error {
	*reply = outcome(resume(ask))
	return nil
}

func resume(ask wire.Resume) error {
	now := unix.NsecToTimespec(ask.Time.UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &now); err != nil {
		return &os.SyscallError{Syscall: "clock_settime", Err: err}
	}
	random, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer random.Close()
	if _, err := random.Write(ask.Seed); err != nil {
		return err
	}
	// What was written counts only when the generator is seeded anew (random(4)).
	const reseed = 0x5207 // RNDRESEEDCRNG
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, random.Fd(), reseed, 0)
	if errno != 0 && errno != unix.ENODATA { // not seeded yet: it has given none
		return &os.PathError{Op: "RNDRESEEDCRNG", Path: random.Name(), Err: errno}
	}
	return nil
}
