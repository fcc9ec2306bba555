package uevent

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// frame puts the header before payload that the kernel wants of a request, and
// asks for an answer.
func frame(payload string) []byte {
	hdr := make([]byte, unix.NLMSG_HDRLEN, unix.NLMSG_HDRLEN+len(payload))
	binary.NativeEndian.PutUint32(hdr[0:], uint32(unix.NLMSG_HDRLEN+len(payload)))
	binary.NativeEndian.PutUint16(hdr[4:], unix.NLMSG_MIN_TYPE)
	binary.NativeEndian.PutUint16(hdr[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	return append(hdr, payload...)
}

// ackErrno is the error in the kernel's answer, an nlmsghdr with an nlmsgerr
// behind it.
func ackErrno(ack []byte) unix.Errno {
	if len(ack) < unix.NLMSG_HDRLEN+4 || binary.NativeEndian.Uint16(ack[4:]) != unix.NLMSG_ERROR {
		return unix.EBADMSG
	}
	return unix.Errno(-int32(binary.NativeEndian.Uint32(ack[unix.NLMSG_HDRLEN:])))
}
