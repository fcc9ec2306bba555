package daemon_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pilebones/go-udev/netlink"

	"vfio-hotplug/internal/daemon"
	"vfio-hotplug/internal/guard"
	"vfio-hotplug/internal/inuse"
	"vfio-hotplug/internal/ledger"
	"vfio-hotplug/internal/operate"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
	"vfio-hotplug/internal/sysfstest"
	"vfio-hotplug/internal/uevent"
	"vfio-hotplug/policy"
)

const everyNVMe = `
[[rule]]
name  = "every drive"
match = { class = "nvme" }
`

// bayAt gives the address of a bay of the model: bus 1, 2, 3, …
func bayAt(n int) pci.Address { return pci.Address{Bus: uint8(n)} }

// house is a model machine with a daemon on it.
type house struct {
	*sysfstest.Kernel
	t      *testing.T
	run    string // the ledger's directory
	uses   *uses
	load   func(ctx context.Context, module string) error
	limits operate.Limits
	guard  bool // the daemon has one
	kept   bool // udev's coldplug has kept something

	mu     sync.Mutex
	policy string

	log      *record
	ready    *record // what was told to the service manager
	reload   chan os.Signal
	daemon   *daemon.Daemon
	operator *operate.Operator
	events   *source
	running  context.Context // of the daemon's Run
	stop     context.CancelFunc
	ended    chan error
}

// build makes a machine with bays 1 to n, and no daemon yet.
func build(t *testing.T, n int, o sysfstest.Options, policy string) *house {
	t.Helper()
	h := &house{Kernel: sysfstest.New(o), t: t, run: t.TempDir(), uses: &uses{}, policy: policy,
		log: &record{}, ready: &record{}, reload: make(chan os.Signal, 1), limits: operate.DefaultLimits()}
	h.load = func(_ context.Context, module string) error { return h.LoadModule(module) }
	for i := 1; i <= n; i++ {
		h.AddBay(sysfstest.Bay{Address: bayAt(i), Slot: slotOf(i), Above: []pci.Address{{Device: uint8(i)}}})
	}
	return h
}

func slotOf(i int) string { return string(rune('A' + i - 1)) }

// start starts a daemon and waits until all that it found is done.
func (h *house) start() {
	h.t.Helper()
	book, err := ledger.Open(h.run, "/proc")
	if err != nil {
		h.t.Fatal(err)
	}
	h.operator = &operate.Operator{
		FS: h.FS(), Ledger: book, Uses: h.uses, Load: h.load,
		Aliases: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("")), nil },
		Dev:     h.run, Proc: "/proc", Limit: h.limits,
	}
	h.events = &source{events: h.Subscribe()}
	h.events.ctx, h.events.close = context.WithCancel(context.Background())
	config := daemon.Config{
		FS: h.FS(), Events: h.events, Operator: h.operator, Load: h.parse, Reload: h.reload,
		Log:    slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Notify: func(state string) { h.ready.Write([]byte(state + "\n")) },
	}
	if h.kept {
		config.Kept = func() error { h.kept = false; return nil }
	}
	if h.guard {
		config.Guard, config.Machine = guard.New(h.Root(), h.Expendable(), filepath.Join(h.run, "guard.json")), h.machine
	}
	h.daemon, err = daemon.New(config)
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	h.running, h.stop, h.ended = ctx, stop, make(chan error, 1)
	go func() { h.ended <- h.daemon.Run(ctx) }()
	synctest.Wait()
}

// machine is what a guard's choice depends on, as the model is.
func (h *house) machine() (guard.Machine, error) {
	proc := h.t.TempDir()
	if err := errors.Join(os.WriteFile(filepath.Join(proc, "modules"), []byte(h.ProcModules()), 0o644),
		os.WriteFile(filepath.Join(proc, "cmdline"), []byte("quiet\n"), 0o644)); err != nil {
		return guard.Machine{}, err
	}
	return guard.ReadMachine(h.Root(), proc, h.Release().String())
}

func (h *house) parse() (*policy.Policy, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return policy.Parse("policy.toml", []byte(h.policy))
}

// write replaces the policy and asks for a reload.
func (h *house) write(policy string) {
	h.mu.Lock()
	h.policy = policy
	h.mu.Unlock()
	h.reload <- syscall.SIGHUP
	synctest.Wait()
}

// end stops the daemon and gives how long that took.
func (h *house) end() time.Duration {
	h.t.Helper()
	start := time.Now()
	h.stop()
	if err := <-h.ended; err != nil {
		h.t.Errorf("the daemon ended with %v", err)
	}
	return time.Since(start)
}

// plug plugs a drive such that the daemon hears of it inside the window, before
// any driver can match.
func (h *house) plug(bay int) {
	h.BeginAdd(bayAt(bay), sysfstest.Drive{})
	synctest.Wait()
	h.FinishAdd(bayAt(bay))
	synctest.Wait()
}

// plugLate plugs a drive such that nvme is faster than the daemon.
func (h *house) plugLate(bay int) {
	h.events.hold()
	h.Plug(bayAt(bay), sysfstest.Drive{})
	h.events.release()
	synctest.Wait()
}

// want checks the driver of a bay, and the last outcome that was told of it.
func (h *house) want(bay int, driver string, outcome operate.Outcome) {
	h.t.Helper()
	if got := h.Driver(bayAt(bay)); got != driver {
		h.t.Errorf("bay %d: driver %q, want %q", bay, got, driver)
	}
	line := h.log.last("pci_address=" + bayAt(bay).String())
	if !strings.Contains(line, "outcome="+string(outcome)+" ") {
		h.t.Errorf("bay %d: the log's last word is %q, want outcome %s", bay, line, outcome)
	}
}

// written gives the writes to a device since the machine was booted.
func (h *house) written(a pci.Address) []string {
	var all []string
	for _, w := range h.Writes() {
		if strings.Contains(w.Path, a.String()) || strings.Contains(w.Value, a.String()) {
			all = append(all, w.Path+"="+strings.TrimSpace(w.Value))
		}
	}
	return all
}

// record is a log that can be searched.
type record struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *record) lines(word string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []string
	for line := range strings.Lines(r.text.String()) {
		if strings.Contains(line, word) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

func (r *record) last(word string) string {
	lines := r.lines(word)
	if len(lines) == 0 {
		return ""
	}
	return lines[len(lines)-1]
}

// source hands the model's events to the daemon, and can hold them back.
type source struct {
	events *sysfstest.Events
	ctx    context.Context
	close  context.CancelFunc

	mu   sync.Mutex
	held chan struct{} // closed when events may pass, nil when they do
}

func (s *source) Receive(ev *uevent.Event) error {
	next, err := s.events.Next(s.ctx)
	switch {
	case errors.Is(err, syscall.ENOBUFS):
		return uevent.ErrOverrun
	case err != nil:
		return os.ErrClosed
	}
	if held := s.gate(); held != nil {
		select {
		case <-held:
		case <-s.ctx.Done():
			return os.ErrClosed
		}
	}
	*ev = uevent.Event{UEvent: netlink.UEvent{Action: netlink.KObjAction(next.Action), KObj: next.DevPath, Env: next.Env}, Seq: next.Seq, At: time.Now()}
	return nil
}

func (s *source) Close() error {
	s.close()
	return nil
}

func (s *source) gate() chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held
}

func (s *source) hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = make(chan struct{})
}

func (s *source) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.held)
	s.held = nil
}

// uses says that some devices are in use.
type uses struct {
	mu        sync.Mutex
	mounted   map[pci.Address]string
	unsettled map[pci.Address]bool
}

func (u *uses) mount(bay int, at string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.mounted == nil {
		u.mounted = map[pci.Address]string{}
	}
	u.mounted[bayAt(bay)] = at
}

func (u *uses) settle(bay int, done bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.unsettled == nil {
		u.unsettled = map[pci.Address]bool{}
	}
	u.unsettled[bayAt(bay)] = !done
}

func (u *uses) Look(_ context.Context, dev *sysfs.Device, _ pci.Device, _ inuse.How) (inuse.Report, *inuse.Hold, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.unsettled[dev.Address()] {
		return inuse.Report{}, nil, &inuse.NotSettledError{Reason: "nvme0 is new"}
	}
	if at, busy := u.mounted[dev.Address()]; busy {
		return inuse.Report{Uses: []inuse.Use{{Kind: inuse.Mount, Chain: []string{"nvme0n1", at}}}}, nil, nil
	}
	return inuse.Report{}, nil, nil
}
