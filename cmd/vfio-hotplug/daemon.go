package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/control"
	"vfio-hotplug/internal/daemon"
	"vfio-hotplug/internal/guard"
	"vfio-hotplug/internal/inuse"
	"vfio-hotplug/internal/journal"
	"vfio-hotplug/internal/operate"
	"vfio-hotplug/internal/uevent"
)

func newDaemonCommand(m *machine) *cobra.Command {
	var debug bool
	cmd := &cobra.Command{
		Use:   "daemon",
		Short: "Listen to the kernel and bring devices under their drivers",
		Long: `daemon listens for devices that are plugged and does what the policy says.
Under systemd it logs to the journal; in the foreground it writes readable
lines to standard error. SIGHUP reads the policy again, SIGTERM stops.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return runDaemon(cmd, m, debug) },
	}
	cmd.Flags().BoolVar(&debug, "debug", false, "also log what is usually not worth a line")
	return cmd
}

func runDaemon(cmd *cobra.Command, m *machine, debug bool) error {
	outlastReaders()
	if off, err := isOff(m); off || err != nil {
		return err
	}
	level := slog.LevelInfo
	if debug {
		level = slog.LevelDebug
	}
	log, flush := openLog(level, journal.Auto)
	defer flush()

	reload := make(chan os.Signal, 1)
	signal.Notify(reload, unix.SIGHUP)
	defer signal.Stop(reload)

	operator, err := m.operator()
	if err != nil {
		return err
	}
	listener, err := control.Listen(m.socket())
	if err != nil {
		return err
	}
	defer listener.Close()
	events, err := openEvents()
	if err != nil {
		return err
	}
	defer events.Close()
	watchdog, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("read the watchdog's period: %w", err)
	}
	g := m.guard(operator)
	unannounced, err := m.unannounced()
	if err != nil {
		return err
	}
	config := daemon.Config{
		FS: operator.FS, Events: events, Operator: operator, Added: m.added, Load: m.policy, Log: log,
		Guard: g, Machine: func() (guard.Machine, error) { return m.judge(operator) },
		Unannounced: unannounced, Notify: notify(log), Watchdog: watchdog, Reload: reload,
	}
	if users, err := inuse.NewWatcher(m.root); err != nil {
		log.Warn("users of drives that go will not be noticed: " + err.Error())
	} else {
		config.Users = users
	}
	d, err := daemon.New(config)
	if err != nil {
		// Nobody would take new devices on from an earlier daemon's guard.
		if err := disarmBounded(operator, g); err != nil {
			cmd.PrintErrln("vfio-hotplug: take back the guard: " + err.Error())
		}
		if err := m.freeKept(operator); err != nil {
			cmd.PrintErrln("vfio-hotplug: let go of what was kept at boot: " + err.Error())
		}
		return notStarted{policyFaults(cmd, err)}
	}
	if _, err := m.endColdplug(); err != nil {
		return err
	}
	d.Kept = m.keptAtBoot()
	return errors.Join(serve(cmd.Context(), d, listener, log), disarmUnlessService(operator, g))
}

// disarmUnlessService takes the guard back where nobody else does: under
// systemd a unit of its own does it at a real stop, and a restart keeps it.
func disarmUnlessService(operator *operate.Operator, g *guard.Guard) error {
	// Set by systemd to the process that it started; a child may inherit it
	// (systemd.exec(5)).
	if os.Getenv("SYSTEMD_EXEC_PID") == strconv.Itoa(os.Getpid()) {
		return nil
	}
	return disarmBounded(operator, g)
}

func disarmBounded(operator *operate.Operator, g *guard.Guard) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return disarm(ctx, operator, g)
}

// serve runs the daemon and its socket until ctx ends. A socket that breaks
// does not end the daemon: devices go on being bound.
func serve(ctx context.Context, d *daemon.Daemon, listener net.Listener, log *slog.Logger) error {
	server := control.Server{
		Info:     control.Info{Product: "vfio-hotplug", Version: version},
		Handlers: d.Handlers(ctx),
	}
	served := make(chan struct{})
	serving, stop := context.WithCancel(ctx)
	go func() {
		defer close(served)
		if err := server.Serve(serving, listener); err != nil {
			log.Error("the control socket broke: "+err.Error()+": restart the daemon to use status, bind and release again", journal.MessageFailed.Attr())
		}
	}()
	err := d.Run(ctx)
	stop()
	// A handler may wait for a device on which the kernel hangs.
	select {
	case <-served:
	case <-time.After(time.Second):
	}
	return err
}

// openEvents takes the socket that systemd passed, or opens one.
func openEvents() (*uevent.Conn, error) {
	files := activation.Files(true)
	if len(files) == 0 {
		return uevent.Listen()
	}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	if len(files) > 1 {
		return nil, fmt.Errorf("systemd passed %d sockets, want one: ListenNetlink=kobject-uevent 1", len(files))
	}
	return uevent.FromFile(files[0])
}

func notify(log *slog.Logger) func(string) {
	return func(state string) {
		if _, err := sd.SdNotify(false, state); err != nil {
			log.Warn("tell the service manager: " + err.Error())
		}
	}
}

// isOff is switchedOff for who then does nothing, and says so.
func isOff(m *machine) (bool, error) {
	off, err := switchedOff(m)
	if off {
		fmt.Fprintln(os.Stderr, "vfio-hotplug: "+offByKernel)
	}
	return off, err
}

const offByKernel = "off by the kernel command line (vfio-hotplug=off)"

// switchedOff reports whether the kernel command line says vfio-hotplug=off:
// the way out for an administrator who cannot reach the policy.
func switchedOff(m *machine) (bool, error) {
	line, err := os.ReadFile(m.path("proc/cmdline"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the kernel command line: %w", err)
	}
	return slices.Contains(strings.Fields(string(line)), "vfio-hotplug=off"), nil
}
