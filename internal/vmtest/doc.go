// Package vmtest is the laboratory: QEMU guests that run Debian's own kernels,
// into which tests plug drives while they run.
//
// A guest has an initramfs of busybox, the kernel's modules and an agent. What the
// test brings comes in later, through a mailbox. So, where QEMU emulates the
// processor, guests with the same kernel and machine are booted once and saved. A
// test restores that snapshot, which takes a second or two. The agent is the witness: it listens to the kernel's uevents
// and traces every write below /sys, with code of its own. Guests need QEMU and
// kernels, which
//
//	go run ./internal/vmtest/vmsetup
//
// brings. A package guest (see EachSystem) has a whole Debian instead, with
// systemd and udev, on an NVMe drive that it boots from: there the package is
// installed by apt, and a reboot boots what update-initramfs has made. The agent
// is a service in it, before anything that touches a device, and all else is the
// same. QEMU cannot save an NVMe drive, so a package guest is restored only where
// its root is on a SATA disk. It has one emulated processor, the others two. What
// such guests boot is made by
//
//	go run ./internal/vmtest/vmsetup -systems
//
// Guests are slow, so tests run them only when asked to, and as many side by side
// as the machine has processors:
//
//	GUESTS=all go test ./internal/vmtest
//	GUESTS=6.1,7.3 go test ./internal/vmtest
//
// and a kernel that is asked for and not there is a failure, not a skip.
// VMLINUZ (an image) and MODULES (the directory with its modules.dep) bring
// another kernel, which is then the only one. A guest that fails leaves its
// console, its logs and a script that boots it again below failed/ in the cache
// directory.
package vmtest
