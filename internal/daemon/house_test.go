package daemon_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
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
	guard  bool   // the daemon has one
	queued func() // happens between the socket and the daemon, nil for nothing
	// watcher tells the daemon of users that have gone, nil for none.
	watcher *watcher
	kept    bool // udev's coldplug has kept something

	mu     sync.Mutex
	policy string

	log      *record
	ready    *record // what was told to the service manager
	proc     string  // where procfs is, "" for /proc
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
	h := &house{Kernel: sysfstest.New(o), t: t, run: t.TempDir(), uses: newUses(), policy: policy,
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
		FS: h.FS(), Ledger: book, Uses: h.uses, Added: h.Added, Load: h.load,
		Aliases: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("")), nil },
		Dev:     h.run, Proc: cmp.Or(h.proc, "/proc"), Limit: h.limits,
	}
	h.events = &source{events: h.Subscribe()}
	h.events.ctx, h.events.close = context.WithCancel(context.Background())
	if h.queued != nil {
		h.queued()
	}
	config := daemon.Config{
		FS: h.FS(), Events: h.events, Operator: h.operator, Added: h.Added, Load: h.parse, Reload: h.reload,
		Unannounced: h.Release() < sysfstest.Linux612,
		Log:         slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Notify:      func(state string) { h.ready.Write([]byte(state + "\n")) },
	}
	if h.watcher != nil {
		config.Users = h.watcher
	}
	if h.kept {
		config.Kept = func() error { h.kept = false; return nil }
	}
	if h.guard {
		g := guard.New(h.Root(), h.Expendable(), filepath.Join(h.run, "guard.json"))
		config.Guard, config.Machine = g, h.machine
		if h.queued != nil { // so that whoever does not wait for it is first
			config.Guard = slow{g}
		}
	}
	h.daemon, err = daemon.New(config)
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	runs, ended := h.daemon, make(chan error, 1)
	h.running, h.stop, h.ended = ctx, stop, ended
	go func() { ended <- runs.Run(ctx) }()
	synctest.Wait()
}

// slow is a guard whose record takes a moment to read.
type slow struct{ *guard.Guard }

func (s slow) State() (guard.State, error) {
	time.Sleep(time.Millisecond)
	return s.Guard.State()
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

// told is lines without those for debugging.
func (r *record) told(word string) []string {
	return slices.DeleteFunc(r.lines(word), func(line string) bool { return strings.Contains(line, "level=DEBUG") })
}

// forget empties the log.
func (r *record) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.text = bytes.Buffer{}
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

	others    []sysfstest.Event  // not of the model's, to come next
	interrupt context.CancelFunc // the wait for the model's next one
}

// inject has the daemon receive an event of a device that the model has not.
func (s *source) inject(event sysfstest.Event) {
	s.mu.Lock()
	s.others = append(s.others, event)
	s.interrupt()
	s.mu.Unlock()
	synctest.Wait()
}

func (s *source) next() (sysfstest.Event, error) {
	for {
		s.mu.Lock()
		if len(s.others) > 0 {
			event := s.others[0]
			s.others = s.others[1:]
			s.mu.Unlock()
			return event, nil
		}
		ctx, cancel := context.WithCancel(s.ctx)
		s.interrupt = cancel
		s.mu.Unlock()
		event, err := s.events.Next(ctx)
		cancel()
		if errors.Is(err, context.Canceled) && s.ctx.Err() == nil {
			continue
		}
		return event, err
	}
}

func (s *source) Receive(ev *uevent.Event) error {
	next, err := s.next()
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
	chains    map[pci.Address][]string
	claimed   map[pci.Address]bool
	unsettled map[pci.Address]bool
	last      map[pci.Address]error // what keeps the look from seeing that comes right before the unbind
	unchecked []string              // what no look can look at
	awaited   string
	looks     map[pci.Address]looked
	within    func() // called in a look, or in Still, when all has been seen
}

// looked counts looks, and how often somebody asked whether a use is there still.
type looked struct{ passive, full, still int }

func (l looked) minus(o looked) looked {
	return looked{l.passive - o.passive, l.full - o.full, l.still - o.still}
}

func newUses() *uses {
	return &uses{chains: map[pci.Address][]string{}, claimed: map[pci.Address]bool{}, unsettled: map[pci.Address]bool{}, last: map[pci.Address]error{}, looks: map[pci.Address]looked{}}
}

// mount has the disk in a bay mounted, by way of what is built on it.
func (u *uses) mount(bay int, way ...string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.chains[bayAt(bay)] = append([]string{"nvme0n1"}, way...)
}

func (u *uses) unmount(bay int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.chains, bayAt(bay))
}

// claim says that somebody claims the disk in a bay, whom nothing shows.
func (u *uses) claim(bay int, is bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.claimed[bayAt(bay)] = is
}

func (u *uses) settle(bay int, done bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.unsettled[bayAt(bay)] = !done
}

// blind gives the last look before the unbind an error; nil ends that.
func (u *uses) blind(bay int, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.last[bayAt(bay)] = err
}

func (u *uses) Awaited() (string, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.awaited, nil
}

// count gives the looks at a bay so far.
func (u *uses) count(bay int) looked {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.looks[bayAt(bay)]
}

// during has f called in the next looks, and when Still is asked.
func (u *uses) during(f func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.within = f
}

func (u *uses) Look(_ context.Context, dev *sysfs.Device, _ pci.Device, how inuse.How) (inuse.Report, *inuse.Hold, error) {
	report, within, err := u.look(dev.Address(), how)
	if within != nil {
		within()
	}
	return report, nil, err
}

func (u *uses) Still(_ context.Context, r inuse.Report) bool {
	is, within := u.still(r)
	if within != nil {
		within()
	}
	return is
}

// still knows a device by what its report names, since only one has it.
func (u *uses) still(r inuse.Report) (is bool, within func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for bay := 1; bay <= 12; bay++ {
		a := bayAt(bay)
		mounted := u.chains[a] != nil && len(r.Uses) > 0 && slices.Equal(r.Uses[0].Chain, u.chains[a])
		if mounted || u.claimed[a] && r.Claimed() {
			looks := u.looks[a]
			looks.still++
			u.looks[a] = looks
			return true, u.within
		}
	}
	return false, u.within
}

func (u *uses) look(a pci.Address, how inuse.How) (report inuse.Report, within func(), err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	looks := u.looks[a]
	if how.Passive {
		looks.passive++
	} else {
		looks.full++
	}
	u.looks[a] = looks
	report.Unchecked = u.unchecked
	switch chain := u.chains[a]; {
	case u.unsettled[a]:
		err = &inuse.NotSettledError{Reason: "nvme0 is new"}
	case how.Passive && u.last[a] != nil:
		err = u.last[a]
	case chain != nil:
		report.Uses = []inuse.Use{{Kind: inuse.Mount, Chain: chain}}
	case u.claimed[a] && !how.Passive:
		report.Uses = []inuse.Use{{Kind: inuse.Claim, Chain: []string{"nvme0n1", "claimed"}}}
	}
	return report, u.within, err
}
