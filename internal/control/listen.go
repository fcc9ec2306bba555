package control

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// socketMode lets everybody connect. Users expect of `status` what they get
// from `systemctl status` and `lspci -k`: an answer without sudo. What sysfs does
// not tell to all it does not tell them either (Call.Peer). Who may change
// something is asked for each method (Handler.Root), of the kernel and not of the
// file's mode.
const socketMode = 0o666

// ErrInUse says that another daemon listens.
var ErrInUse = errors.New("another daemon listens")

// Listen makes the socket at path, in a directory that exists and that only
// root can write. A socket that a daemon left when it was killed is replaced;
// one that somebody listens at is not, and the error is ErrInUse.
//
// The file path.lock is held for as long as the listener is open: of two
// daemons that start at the same moment one gets ErrInUse.
func Listen(path string) (net.Listener, error) {
	lock, err := takeLock(path + ".lock")
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	l, err := listen(path)
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	return &listener{Listener: l, lock: lock}, nil
}

// listener lets go of the lock after the socket is removed.
type listener struct {
	net.Listener
	lock *os.File
}

// Close removes the socket. Clients that are connected stay so.
func (l *listener) Close() error {
	err := l.Listener.Close()
	l.lock.Close()
	return err
}

// takeLock is of mode 0600: whoever can open a file can lock it.
func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, ErrInUse
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

func listen(path string) (net.Listener, error) {
	if err := removeStale(path); err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, socketMode); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// removeStale removes a socket that refuses connections. The caller holds the
// lock, so no other daemon is about to listen there.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("something that is not a socket is there: move it away")
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
		return ErrInUse
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return os.Remove(path)
	}
	if errors.Is(err, syscall.EAGAIN) {
		// Its queue of connections is full: it is there, and busy.
		return ErrInUse
	}
	return err
}
