package daemon_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"vfio-hotplug/internal/control"
	"vfio-hotplug/internal/ledger"
	"vfio-hotplug/internal/sysfstest"
)

// The bays of a trial: the drive that it is about, and one by which it is seen
// that other lanes go on.
const (
	subject   = 1
	bystander = 3
)

// seat is the part of a device that is ours to change.
type seat struct{ driver, override string }

// arrival is a way in which a drive comes before the daemon, or is given back.
type arrival struct {
	name    string
	options sysfstest.Options
	rules   string
	catches bool // the daemon has a guard
	// prepare brings the machine to the moment before; then a daemon runs,
	// unless come starts it. come is the arrival: it does not wait for the
	// daemon to be done.
	prepare, come func(*house)
	// before is what a release puts back, and what a drive that is not taken
	// ends with; caught, beside it, where the guard has put it and nobody has
	// looked yet.
	before seat
	caught []seat
	// bound is what a taken drive ends with, none where it is not to be taken.
	bound []seat
	// either: the next start need not bind it.
	either bool
	// used: it is in use, and must not be taken from nvme for a moment.
	used bool
}

var (
	onNVMe  = seat{"nvme", ""}
	onVFIO  = seat{"vfio-pci", "vfio-pci"}
	byID    = seat{"vfio-pci", ""}
	inStub  = seat{"pci-stub", ""}
	nowhere = seat{}
)

// trialPolicy takes every drive but that in bay B.
const trialPolicy = everyNVMe + "\n[[rule]]\nname = \"bay B\"\nmatch = { slot = \"B\" }\naction = \"leave\"\n"

// leavePolicy leaves the subject, and takes the others.
const leavePolicy = everyNVMe + "\n[[rule]]\nname = \"bay A\"\nmatch = { slot = \"A\" }\naction = \"leave\"\n"

// running starts a daemon and lets it arm its guard.
func running(h *house) {
	h.start()
	time.Sleep(time.Second)
}

func won(h *house) {
	h.BeginAdd(bayAt(subject), sysfstest.Drive{})
	synctest.Wait()
	h.FinishAdd(bayAt(subject))
}

func lost(h *house) {
	h.events.hold()
	h.Plug(bayAt(subject), sysfstest.Drive{})
	h.events.release()
}

func there(h *house) { h.Plug(bayAt(subject), sysfstest.Drive{}) }

// then does one after the other.
func then(steps ...func(*house)) func(*house) {
	return func(h *house) {
		for _, step := range steps {
			step(h)
		}
	}
}

// hand has a person ask for something in the background.
func hand(method string) func(*house) {
	return func(h *house) {
		in, err := json.Marshal(control.ReleaseRequest{Address: bayAt(subject).String()})
		if err != nil {
			h.t.Fatal(err)
		}
		go func() {
			_, _ = h.daemon.Handlers(h.running)[method].Handle(h.running, control.NewCall(method, in))
		}()
	}
}

func (h *house) override(name string) {
	h.t.Helper()
	if err := h.Root().Write("bus/pci/devices/"+bayAt(subject).String()+"/driver_override", name+"\n"); err != nil {
		h.t.Fatal(err)
	}
}

func settle(*house) { time.Sleep(time.Minute) }

// arrivals are all of them, on an old kernel and on a new one.
func arrivals() []arrival {
	var all []arrival
	for _, release := range []sysfstest.Release{sysfstest.Linux61, sysfstest.Linux73} {
		plain := sysfstest.Options{Release: release}
		guarded := sysfstest.Options{Release: release, Drivers: vfioFirst}
		gated := sysfstest.Options{Release: release, Drivers: noStub.Drivers, Missing: noStub.Missing}
		some := []arrival{
			{name: "race won", options: plain, rules: trialPolicy, prepare: running, come: won,
				before: onNVMe, bound: []seat{onVFIO}},
			{name: "race lost", options: plain, rules: trialPolicy, prepare: running, come: lost,
				before: onNVMe, bound: []seat{onVFIO}},
			{name: "found", options: plain, rules: trialPolicy, prepare: there, come: (*house).start,
				before: onNVMe, bound: []seat{onVFIO}},
			{name: "found without a driver", options: plain, rules: trialPolicy,
				prepare: then(there, func(h *house) { h.unbind("nvme", subject) }), come: (*house).start,
				before: nowhere, bound: []seat{onVFIO}},
			{name: "claim", options: guarded, rules: everyNVMe, catches: true, prepare: running, come: lost,
				before: onNVMe, caught: []seat{byID}, bound: []seat{byID, onVFIO}},
			{name: "stub", options: guarded, rules: trialPolicy, catches: true, prepare: running, come: lost,
				before: onNVMe, caught: []seat{inStub}, bound: []seat{onVFIO}},
			{name: "stub, left", options: guarded, rules: leavePolicy, catches: true, prepare: running, come: lost,
				before: onNVMe, caught: []seat{inStub}},
			{name: "by hand", options: plain, prepare: then(there, running), come: hand(control.MethodBind),
				before: onNVMe, bound: []seat{onVFIO}, either: true},
			{name: "by hand over somebody's override", options: plain,
				prepare: then(there, func(h *house) { h.override("nvme") }, running), come: hand(control.MethodBind),
				before: seat{"nvme", "nvme"}, bound: []seat{onVFIO}, either: true},
			{name: "release", options: plain, rules: trialPolicy, prepare: then(there, running, settle), come: hand(control.MethodRelease),
				before: onNVMe, bound: []seat{onVFIO}, either: true},
			{name: "release under a claim", options: guarded, rules: everyNVMe, catches: true,
				prepare: then(running, lost, settle), come: hand(control.MethodRelease),
				before: onNVMe, bound: []seat{byID, onVFIO}, either: true},
			{name: "refused by its probe", options: plain, rules: trialPolicy,
				prepare: then(there, func(h *house) { h.FailProbe("vfio-pci", bayAt(subject), syscall.EIO) }), come: (*house).start,
				before: onNVMe},
			{name: "in use, race lost", options: plain, rules: trialPolicy,
				prepare: then(running, func(h *house) { h.uses.mount(subject, "/srv") }), come: lost,
				before: onNVMe, used: true},
			{name: "in use, found", options: plain, rules: trialPolicy,
				prepare: then(there, func(h *house) { h.uses.mount(subject, "/srv") }), come: (*house).start,
				before: onNVMe, used: true},
		}
		if release == sysfstest.Linux73 {
			some = append(some,
				arrival{name: "gate", options: gated, rules: trialPolicy, catches: true, prepare: running, come: lost,
					before: onNVMe, caught: []seat{nowhere}, bound: []seat{onVFIO}},
				arrival{name: "gate, left", options: gated, rules: leavePolicy, catches: true, prepare: running, come: lost,
					before: onNVMe, caught: []seat{nowhere}})
		}
		if release == sysfstest.Linux61 { // those on which it behaves otherwise
			some = slices.DeleteFunc(some, func(a arrival) bool {
				return !slices.Contains([]string{"race won", "race lost", "claim", "stub", "release"}, a.name)
			})
		}
		for i := range some {
			some[i].name += " on " + release.String()
		}
		all = append(all, some...)
	}
	return all
}

var addresses = regexp.MustCompile(`[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]`)

// place is an operation as it is found again in the next run: the n-th of a
// kind on a path since the arrival, whatever other lanes do meanwhile.
type place struct {
	kind        sysfstest.OpKind
	path, value string
	n           int
}

func (p place) String() string {
	text := fmt.Sprintf("%v %s", p.kind, strings.TrimPrefix(p.path, "bus/pci/"))
	if p.kind == sysfstest.OpWrite {
		text += fmt.Sprintf("=%q", p.value)
	}
	return fmt.Sprintf("%s #%d", text, p.n)
}

// locks reports whether the kernel takes the device's lock for the operation, so
// that a driver's probe or removal can hold it up: it must then be said.
func (p place) locks() bool {
	return p.kind == sysfstest.OpWrite || strings.HasSuffix(p.path, "/driver_override")
}

// about reports whether an operation may be of the subject's transaction: it
// names no other device.
func about(op sysfstest.Op) bool {
	for _, a := range addresses.FindAllString(op.Path+" "+op.Value, -1) {
		if a != bayAt(subject).String() {
			return false
		}
	}
	return true
}

// places counts operations.
type places struct {
	mu   sync.Mutex
	of   map[place]int
	seen []place
}

func (p *places) next(op sysfstest.Op) place {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := place{kind: op.Kind, path: op.Path, value: op.Value}
	if p.of == nil {
		p.of = map[place]int{}
	}
	p.of[at]++
	at.n = p.of[at]
	p.seen = append(p.seen, at)
	return at
}

// trial is one arrival with one fault.
type trial struct {
	*house
	arrival
	touched int // drivers that had touched it when it came
	wrong   []string
}

// try prepares an arrival, has it come while before is asked of each operation
// that may be of its transaction, and gives what was found wrong by what comes
// then.
func (a arrival) try(t *testing.T, before func(*trial, place) error, and func(*trial)) (wrong []string) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 3, a.options, a.rules)
		h.guard = a.catches
		a.prepare(h)
		r := &trial{house: h, arrival: a}
		if slices.Contains(h.Present(), bayAt(subject)) {
			r.touched = len(h.Touched(bayAt(subject)))
		}
		var seen places
		h.Fault(func(op sysfstest.Op) error {
			if !about(op) {
				return nil
			}
			return before(r, seen.next(op))
		})
		a.come(h)
		and(r)
		wrong = r.wrong
	})
	return wrong
}

func (r *trial) failf(format string, a ...any) { r.wrong = append(r.wrong, fmt.Sprintf(format, a...)) }

func (r *trial) seat() seat { return seat{r.Driver(bayAt(subject)), r.Override(bayAt(subject))} }

func (r *trial) entry() *ledger.Entry {
	e, found, err := r.operator.Ledger.Get(bayAt(subject))
	if err != nil {
		r.failf("ledger: %v", err)
	}
	if !found {
		return nil
	}
	return &e
}

// truth checks that the drive is as it was found, or finished, and that the
// ledger says which; or that the ledger has what is half done. It reports
// whether nothing is.
func (r *trial) truth(when string) (whole bool) {
	now, entry := r.seat(), r.entry()
	switch {
	case entry == nil:
		if now != r.before && !slices.Contains(r.caught, now) {
			r.failf("%s: %+v, and no entry", when, now)
		}
		return true
	case entry.Stage == ledger.Taken:
		if !slices.Contains(r.bound, now) {
			r.failf("%s: %+v, and the ledger says that it is taken", when, now)
		}
		if entry.Outcome == "direct" && slices.Contains(r.Touched(bayAt(subject))[r.touched:], "nvme") {
			r.failf("%s: nvme has had it, and the ledger says direct", when)
		}
		return true
	}
	return false
}

// told checks that the last word on the drive, or on the scan, has a reason. That
// there is no such file is an answer and no fault, and need not be told as one.
func (r *trial) told(errno syscall.Errno) {
	if r.log.last("scan: ") != "" {
		return
	}
	line := r.log.last("pci_address=" + bayAt(subject).String())
	if !strings.Contains(line, "outcome=") || !strings.Contains(line, "reason=") || strings.Contains(line, `reason=""`) {
		r.failf("the last word is %q", line)
	}
	if errno != 0 && errno != syscall.ENOENT && strings.Contains(line, "outcome=failed") &&
		!strings.Contains(line, errno.Error()) && !strings.Contains(line, "refused the device") {
		r.failf("%q does not say why", line)
	}
}

// untouched checks that a drive in use has never left its driver.
func (r *trial) untouched() {
	if !r.used {
		return
	}
	if touched := r.Touched(bayAt(subject)); !slices.Equal(touched, []string{"nvme"}) {
		r.failf("it is in use, and was touched by %v", touched)
	}
	for _, w := range r.written(bayAt(subject)) {
		if strings.Contains(w, "/unbind=") {
			r.failf("it is in use, and somebody wrote %s", w)
		}
	}
}

// stops ends the daemon, which must not take long.
func (r *trial) stops() {
	if took := r.end(); took >= time.Second {
		r.failf("a stop took %v", took)
	}
}

// ends starts another daemon, without faults, which ends what is half done;
// and a release then puts back what was.
func (r *trial) ends() {
	r.Fault(nil)
	r.After(nil)
	r.start()
	time.Sleep(5 * time.Minute)
	if !r.truth("after the next start") {
		r.failf("after the next start: %+v, and half done: %+v", r.seat(), r.entry())
	}
	now, entry := r.seat(), r.entry()
	switch {
	case entry == nil && (len(r.bound) > 0 && !r.either || now != r.before):
		r.failf("after the next start: %+v: %s", now, r.log.last("pci_address="+bayAt(subject).String()))
	case entry != nil && len(r.bound) == 0:
		r.failf("after the next start: %+v, with an entry", now)
	}
	if entry != nil {
		if d := r.command(control.MethodRelease, subject); d.Outcome != "released" || r.seat() != r.before || r.entry() != nil {
			r.failf("a release ends with %+v: %+v", r.seat(), d)
		}
	}
	r.untouched()
	r.end()
}

// errnos are what an operation of sysfs may answer.
var errnos = []syscall.Errno{syscall.ENODEV, syscall.EBUSY, syscall.EIO, syscall.EINVAL, syscall.ENOENT}

// aWhile is when an arrival has long come to its end, and the daemon has not yet
// looked around by the clock: what that reads is of no arrival.
const aWhile = 14 * time.Second

// undisturbed has an arrival come without a fault, and gives its operations.
func (a arrival) undisturbed(t *testing.T) []place {
	t.Helper()
	var mu sync.Mutex
	var all []place
	var began time.Time
	wrong := a.try(t, func(_ *trial, at place) error {
		mu.Lock()
		defer mu.Unlock()
		if began.IsZero() {
			began = time.Now()
		}
		if time.Since(began) < aWhile {
			all = append(all, at)
		}
		return nil
	}, func(r *trial) {
		time.Sleep(3 * time.Minute)
		if whole := r.truth("without a fault"); !whole || len(r.bound) > 0 && r.entry() == nil && !r.either {
			r.failf("without a fault: %+v, %+v", r.seat(), r.entry())
		}
		r.told(0)
		r.stops()
		r.ends()
	})
	for _, w := range wrong {
		t.Error(w)
	}
	if len(all) < 10 {
		t.Errorf("only %d operations", len(all))
	}
	return all
}

// eachPlace tries a fault at every operation of every arrival, or at every n-th:
// see everyNth.
func eachPlace(t *testing.T, try func(*testing.T, arrival, place) (hit bool, wrong []string)) {
	for _, a := range arrivals() {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			all := a.undisturbed(t)
			if t.Failed() {
				return
			}
			tried, missed := 0, 0
			for i := firstPlace(); i < len(all); i += everyNth {
				p := all[i]
				tried++
				hit, wrong := try(t, a, p)
				if !hit {
					missed++
				}
				for _, w := range wrong {
					t.Errorf("%v: %s", p, w)
				}
			}
			// Which of two goroutines is first, and so which read is an operation's
			// n-th, is the scheduler's affair.
			if missed*4 > tried {
				t.Errorf("%d of %d operations were not come to again", missed, tried)
			}
			t.Logf("%d of %d operations, from number %d on; %d not come to again", tried, len(all), firstPlace(), missed)
		})
	}
}

// TestEveryOperationFails: each read and write of sysfs fails once, with each
// errno.
func TestEveryOperationFails(t *testing.T) {
	eachPlace(t, func(t *testing.T, a arrival, p place) (bool, []string) {
		var all []string
		come := false
		for _, errno := range errnos {
			for _, w := range a.try(t, func(_ *trial, now place) error {
				if now != p {
					return nil
				}
				come = true
				return errno
			}, func(r *trial) {
				time.Sleep(3 * time.Minute)
				if !r.truth("with the fault") {
					r.failf("half done: %+v, %+v", r.seat(), r.entry())
				}
				r.told(errno)
				r.untouched()
				r.stops()
				r.ends()
			}) {
				all = append(all, fmt.Sprintf("%v: %s", errno, w))
			}
		}
		return come, all
	})
}

// TestEveryOperationFailsForGood: from each operation on nothing works any
// more, or no write does, until the next start.
func TestEveryOperationFailsForGood(t *testing.T) {
	eachPlace(t, func(t *testing.T, a arrival, p place) (bool, []string) {
		var all []string
		come := false
		for _, onlyWrites := range []bool{false, true} {
			errno := syscall.EIO
			if onlyWrites {
				errno = syscall.ENODEV
			}
			var hit atomic.Bool
			for _, w := range a.try(t, func(_ *trial, now place) error {
				if now == p {
					hit.Store(true)
				}
				if hit.Load() && (!onlyWrites || now.kind == sysfstest.OpWrite) {
					return errno
				}
				return nil
			}, func(r *trial) {
				time.Sleep(3 * time.Minute)
				r.truth("with the fault")
				r.untouched()
				r.stops()
				r.ends()
			}) {
				all = append(all, fmt.Sprintf("only writes %v: %s", onlyWrites, w))
			}
			come = come || hit.Load()
		}
		return come, all
	})
}

// TestEveryOperationHangs: the kernel does not come back from an operation.
// Other lanes go on, and a stop waits for nothing; and when the kernel does come
// back, this daemon or the next one takes it up.
func TestEveryOperationHangs(t *testing.T) {
	eachPlace(t, func(t *testing.T, a arrival, p place) (bool, []string) {
		if !strings.Contains(p.path+p.value, bayAt(subject).String()) {
			return true, nil // of the bus, which waits for no device
		}
		var all []string
		come := false
		for _, restart := range []bool{false, true} {
			var hung atomic.Pointer[hang]
			var over atomic.Bool // the kernel has come back, and does so from now on
			for _, w := range a.try(t, func(_ *trial, now place) error {
				if now == p && !over.Load() {
					h := &hang{make(chan struct{})}
					hung.Store(h)
					<-h.free
				}
				return nil
			}, func(r *trial) {
				time.Sleep(15 * time.Second)
				r.plug(bystander)
				time.Sleep(15 * time.Second)
				if want := seatOf(r.rules); r.Driver(bayAt(bystander)) != want {
					r.failf("another drive is on %q", r.Driver(bayAt(bystander)))
				}
				if hung.Load() != nil && p.locks() && r.log.last("outcome=stuck") == "" {
					r.failf("nobody said that it is stuck")
				}
				if restart {
					r.stops()
					r.Fault(nil)
					r.start()
					time.Sleep(15 * time.Second)
				}
				over.Store(true)
				if h := hung.Load(); h != nil {
					close(h.free)
				}
				time.Sleep(3 * time.Minute)
				if !r.truth("when it has come back") {
					r.failf("half done: %+v, %+v", r.seat(), r.entry())
				}
				r.told(0)
				r.untouched()
				r.stops()
				r.ends()
			}) {
				all = append(all, fmt.Sprintf("restart %v: %s", restart, w))
			}
			come = come || hung.Load() != nil
		}
		return come, all
	})
}

// hang is an operation that the kernel does not come back from until free is
// closed.
type hang struct{ free chan struct{} }

// seatOf is the driver that a bystander ends with.
func seatOf(policy string) string {
	if policy == "" {
		return "nvme"
	}
	return "vfio-pci"
}

// TestKilledAtEveryOperation: the daemon is killed just after the kernel has
// done an operation, and just before the next.
func TestKilledAtEveryOperation(t *testing.T) {
	eachPlace(t, func(t *testing.T, a arrival, p place) (bool, []string) {
		var all []string
		come := false
		for _, early := range []bool{true, false} {
			var mu sync.Mutex
			var dead chan struct{}
			for _, w := range a.try(t, func(_ *trial, now place) error {
				mu.Lock()
				freeze := dead
				if now == p {
					dead = make(chan struct{})
					if early {
						freeze = dead
					}
				}
				mu.Unlock()
				if freeze == nil {
					return nil
				}
				<-freeze
				return os.ErrClosed
			}, func(r *trial) {
				time.Sleep(3 * time.Minute)
				r.buries()
				r.truth("after the kill")
				r.ends()
				if dead != nil {
					close(dead)
				}
				time.Sleep(time.Minute)
			}) {
				all = append(all, fmt.Sprintf("early %v: %s", early, w))
			}
			come = come || dead != nil
		}
		return come, all
	})
}

// buries lets go of what a killed daemon held, as the kernel does for the dead.
func (r *trial) buries() {
	r.stop()
	r.events.Close()
	locks, err := filepath.Glob(filepath.Join(r.run, "lock", "*"))
	if err != nil {
		r.t.Fatal(err)
	}
	for _, lock := range append(locks, filepath.Join(r.run, "guard.json.lock")) {
		_ = os.Remove(lock)
	}
}
