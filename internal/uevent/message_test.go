package uevent

import (
	"encoding/binary"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestOnlyTheKernelIsBelieved(t *testing.T) {
	kernel := unix.RawSockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}
	root := unix.UnixCredentials(&unix.Ucred{})
	tests := map[string]struct {
		from    unix.RawSockaddrNetlink
		control []byte
		want    bool
	}{
		"the kernel": {kernel, root, true},
		"the kernel, with the group before the credentials": {kernel, append(packetInfo(kernelGroup), root...), true},
		"a process's port":       {unix.RawSockaddrNetlink{Family: unix.AF_NETLINK, Pid: 1, Groups: kernelGroup}, root, false},
		"no group":               {unix.RawSockaddrNetlink{Family: unix.AF_NETLINK}, root, false},
		"udev's group":           {unix.RawSockaddrNetlink{Family: unix.AF_NETLINK, Groups: 2}, root, false},
		"no address":             {unix.RawSockaddrNetlink{}, root, false},
		"another user":           {kernel, unix.UnixCredentials(&unix.Ucred{Uid: 1000}), false},
		"root's group, not root": {kernel, unix.UnixCredentials(&unix.Ucred{Pid: 0, Uid: 65534, Gid: 0}), false},
		"no credentials":         {kernel, nil, false},
		"credentials cut off":    {kernel, root[:len(root)-8], false},
		"a group only":           {kernel, packetInfo(kernelGroup), false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := newMessage()
			m.from = test.from
			m.hdr.Namelen = unix.SizeofSockaddrNetlink
			m.hdr.SetControllen(copy(m.control[:], test.control))
			if got := m.fromKernel(); got != test.want {
				t.Errorf("fromKernel() = %v, want %v", got, test.want)
			}
		})
	}
}

func TestAMessageWithoutAddressIsNotTheKernels(t *testing.T) {
	m := newMessage()
	m.from = unix.RawSockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup} // of an earlier message
	m.hdr.Namelen = 0
	m.hdr.SetControllen(copy(m.control[:], unix.UnixCredentials(&unix.Ucred{})))
	if m.fromKernel() {
		t.Error("fromKernel() = true for a message without an address")
	}
}

// packetInfo is the control message of NETLINK_PKTINFO: the group's number.
func packetInfo(group uint32) []byte {
	b := make([]byte, unix.CmsgSpace(4))
	hdr := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	hdr.Level, hdr.Type = unix.SOL_NETLINK, unix.NETLINK_PKTINFO
	hdr.SetLen(unix.CmsgLen(4))
	binary.NativeEndian.PutUint32(b[unix.CmsgLen(0):], group)
	return b
}
