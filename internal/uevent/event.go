// Package uevent receives the kernel's uevents: one message for each device,
// driver or module that comes, goes or changes.
//
// The socket and its types are go-udev's. Who is believed, what becomes of a
// bad message and how a reader is woken is decided here. The facts are
// from lib/kobject_uevent.c and net/netlink/af_netlink.c of the kernel.
package uevent

import (
	"time"

	"github.com/pilebones/go-udev/netlink"
)

// Event is one uevent of the kernel. It says where to look, not what is true:
// the device may have changed, or gone, since the kernel wrote it.
type Event struct {
	// UEvent holds the Action, the KObj, which is the device's path below /sys
	// such as "/devices/pci0000:00/0000:00:02.0/0000:01:00.0", and the Env with
	// the kernel's properties such as SUBSYSTEM and PCI_SLOT_NAME.
	netlink.UEvent

	// Seq is the kernel's SEQNUM, 0 if there is none. Numbers grow but a gap is
	// no sign of a loss: other network namespaces consume numbers too.
	Seq uint64

	// At is when the event was taken from the socket, with a monotonic reading.
	// An event that waited in the queue is older than that.
	At time.Time
}
