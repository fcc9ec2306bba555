package uevent

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/pilebones/go-udev/netlink"
	"golang.org/x/sys/unix"
)

// openKernelEvents opens a socket that is bound to the kernel's group and that
// no child inherits. go-udev cannot set SOCK_CLOEXEC; the lock keeps os/exec
// and os.StartProcess from forking before the flag is there.
func openKernelEvents() (fd int, err error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	var conn netlink.UEventConn
	if err := conn.Connect(netlink.KernelEvent); err != nil {
		return -1, err
	}
	unix.CloseOnExec(conn.Fd)
	return conn.Fd, nil
}

// duplicate gives a descriptor of our own for f. The socket is the same, also
// its queue.
func duplicate(f *os.File) (fd int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	var dupErr error
	err = raw.Control(func(old uintptr) {
		fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err := errors.Join(err, dupErr); err != nil {
		return -1, err
	}
	return fd, nil
}

// checkKernelEvents says what is wrong with fd if it is anything but a socket
// that is bound to the kernel's uevents and nothing else.
func checkKernelEvents(fd int) error {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return err
	}
	if domain != unix.AF_NETLINK {
		return fmt.Errorf("its address family is %d, not netlink", domain)
	}
	protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil {
		return err
	}
	if protocol != unix.NETLINK_KOBJECT_UEVENT {
		return fmt.Errorf("its netlink protocol is %d, not kobject-uevent", protocol)
	}
	addr, err := unix.Getsockname(fd)
	if err != nil {
		return err
	}
	nl, ok := addr.(*unix.SockaddrNetlink)
	if !ok {
		return fmt.Errorf("its address %+v is not netlink", addr)
	}
	if nl.Groups != kernelGroup {
		return fmt.Errorf("it is bound to groups %#x, not %#x", nl.Groups, kernelGroup)
	}
	return nil
}

// growBuffer asks for receiveBuffer bytes. Beyond net.core.rmem_max that takes
// CAP_NET_ADMIN in the first user namespace.
func growBuffer(fd int) error {
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
	if errors.Is(err, unix.EPERM) {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
	return err
}

// prepare makes fd what Receive needs, non-blocking and with the sender's
// credentials on every message, and reads the size of its buffer. Credentials
// are attached on receipt, so what is queued already has them too.
func prepare(fd int) (bufferSize int, err error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return 0, fmt.Errorf("set O_NONBLOCK: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		return 0, fmt.Errorf("set SO_PASSCRED: %w", err)
	}
	bufferSize, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	if err != nil {
		return 0, fmt.Errorf("get SO_RCVBUF: %w", err)
	}
	return bufferSize, nil
}

// closeOn closes fd because of err, which it returns. What closing a socket
// that was never used may answer is of no interest beside it.
func closeOn(fd int, err error) error {
	_ = unix.Close(fd)
	return err
}
