// Agent is the first process of a guest: it mounts what a system has, reaps
// orphans, and does what the host asks for over the second serial port. In a
// package guest that is all it does, as a service of systemd.
//
// It imports nothing of what is under test: it is the witness.
package main

import (
	"fmt"
	"io"
	"net/rpc"
	"net/rpc/jsonrpc"
	"os"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/vmtest/wire"
)

const port = "/dev/ttyS1"

func main() {
	var err error
	if os.Getpid() == 1 {
		err = initialise()
	} else {
		err = serve()
	}
	fmt.Fprintf(os.Stderr, "agent: %v\n", err)
	if os.Getpid() == 1 {
		unix.Sync()
		unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) // QEMU ends: it runs with -no-reboot
	}
	os.Exit(1)
}

// serve answers the host until the port fails.
func serve() error {
	uevents, err := listenUevents()
	if err != nil {
		return fmt.Errorf("listen to uevents: %w", err)
	}
	tracer := startTracer()
	// The witness looks: systemd may go on.
	if _, err := daemon.SdNotify(true, daemon.SdNotifyReady); err != nil {
		return fmt.Errorf("tell systemd: %w", err)
	}
	if err := wakeProcessors(); err != nil {
		return err
	}
	tty, err := openRaw(port)
	if err != nil {
		return fmt.Errorf("open %s: %w", port, err)
	}
	server := rpc.NewServer()
	if err := server.RegisterName(wire.Service, &Agent{uevents: uevents, trace: tracer}); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(tty, wire.Ready); err != nil {
		return err
	}
	server.ServeCodec(jsonrpc.NewServerCodec(tty))
	return io.ErrUnexpectedEOF
}

// openRaw opens a serial port so that every byte passes as it is.
func openRaw(path string) (*os.File, error) {
	tty, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	t, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		return nil, err
	}
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = unix.CS8 | unix.CREAD | unix.CLOCAL | unix.B115200
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	return tty, unix.IoctlSetTermios(int(tty.Fd()), unix.TCSETS, t)
}

// An Agent has the methods that the host calls.
type Agent struct {
	uevents   *uevents
	processes processes
	trace     *tracer
}
