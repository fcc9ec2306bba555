package uevent

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// kernelGroup is the multicast group that the kernel sends uevents to.
	// Group 2 is udev's, with messages of another form.
	kernelGroup = 1

	// maxMessage is more than the kernel ever sends: 2048 bytes of properties
	// (UEVENT_BUFFER_SIZE) after a header whose path stands in them once more.
	maxMessage = 8192

	// controlSpace holds SCM_CREDENTIALS and, should the owner of a passed
	// socket have asked for them, the netlink group and a security label.
	controlSpace = 512
)

// message is what one recvmsg(2) brings, in memory that the next one uses
// again. unix.Recvmsg allocates the address and the headers of every message;
// this does not. It must not be copied: hdr points into it.
type message struct {
	hdr     unix.Msghdr
	iov     unix.Iovec
	from    unix.RawSockaddrNetlink
	control [controlSpace]byte
	data    [maxMessage]byte

	n     int // the bytes of data in use
	errno unix.Errno
}

func newMessage() *message {
	m := new(message)
	m.iov.Base = &m.data[0]
	m.iov.SetLen(len(m.data))
	m.hdr.Iov = &m.iov
	m.hdr.SetIovlen(1)
	m.hdr.Name = (*byte)(unsafe.Pointer(&m.from))
	m.hdr.Control = &m.control[0]
	return m
}

// receive takes the next message from the socket fd, or sets m.errno: EAGAIN
// if there is none. It never waits, even if whoever shares the socket has made
// it blocking again.
func (m *message) receive(fd uintptr) {
	m.hdr.Namelen = unix.SizeofSockaddrNetlink
	m.hdr.SetControllen(len(m.control))
	m.hdr.Flags = 0
	for {
		n, _, errno := unix.Syscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&m.hdr)), unix.MSG_DONTWAIT)
		if errno == unix.EINTR {
			continue
		}
		m.n, m.errno = int(n), errno
		return
	}
}

// fromKernel reports whether the kernel sent the message: from port 0, to its
// own multicast group, as root. No process can have port 0; a process that
// makes the kernel repeat a message (uevent_net_rcv_skb) keeps its own user.
// Without an address, from would still be that of an earlier message.
func (m *message) fromKernel() bool {
	uid, ok := m.senderUID()
	return m.hdr.Namelen == unix.SizeofSockaddrNetlink &&
		m.from.Pid == 0 &&
		m.from.Groups == kernelGroup &&
		ok && uid == 0
}

// senderUID finds the SCM_CREDENTIALS that the kernel attached.
func (m *message) senderUID() (uid uint32, ok bool) {
	const uidOffset = unsafe.Offsetof(unix.Ucred{}.Uid)
	control := m.control[:m.hdr.Controllen]
	for len(control) > 0 {
		hdr, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			return 0, false
		}
		if hdr.Level == unix.SOL_SOCKET && hdr.Type == unix.SCM_CREDENTIALS && len(data) >= unix.SizeofUcred {
			return binary.NativeEndian.Uint32(data[uidOffset:]), true
		}
		control = rest
	}
	return 0, false
}

// truncated reports whether the message was longer than the memory for it:
// recvmsg(2) then sets MSG_TRUNC.
func (m *message) truncated() bool {
	return m.hdr.Flags&unix.MSG_TRUNC != 0
}

// bytes is the message, valid until the next receive.
func (m *message) bytes() []byte {
	return m.data[:m.n]
}
