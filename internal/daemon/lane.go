package daemon

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"vfio-hotplug/internal/guard"
	"vfio-hotplug/internal/operate"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
)

// lane is everything the daemon knows of one address: what is to be done, what
// was heard, what became of it. Its work is done in order, by one goroutine
// that exists only while there is some.
type lane struct {
	d       *Daemon
	address pci.Address
	wake    chan struct{} // something was heard since the last receive

	mu      sync.Mutex
	todo    todo
	running bool
	life    int      // how often a device was added at the address
	drivers []string // bound since the last add, in the order of the events
	lost    bool     // events may be missing since the last add
	last    operate.Result
	// newcomer: it was plugged since we listen, or was being added then, and no
	// driver has had it when it was last looked at, nor has one since that is no
	// guard's.
	newcomer bool
	group    int    // the IOMMU group that it was last seen in, or pci.NoGroup
	barred   string // who keeps a program from it although it is bound, as was told; "" for nobody
	stuck    string // the step that the kernel has not come back from, "" for none
	vacancy  vacancy
	followed bool // its users are, of the lane's own goroutine
	held     held
}

// todo is the work that has been asked for and not begun. An event only says
// where to look, so any number of equal events are one piece of work.
type todo struct {
	removed bool           // look whether the device has gone
	bystand bool           // look what others have done to it
	leaving time.Time      // the kernel has begun to take its vfio driver away then; zero for not known
	parted  operate.Result // the last word on one that has
	added   time.Time      // a device was plugged then; zero for none
	look    bool           // look at the device as a scan does
	sign    bool           // the same, if what it was refused for is no more
	offers  []string       // drivers that have come, to be offered the device
	hands   []hand         // commands, in their order
	done    []func()       // called when all the above has been done
}

func (t *todo) empty() bool {
	return !t.removed && !t.bystand && t.added.IsZero() && !t.look && !t.sign && len(t.offers) == 0 && len(t.hands) == 0 && len(t.done) == 0
}

// hand is a command about one device. One whose client has left before it was
// begun is not begun.
type hand struct {
	client context.Context
	run    func(context.Context, operate.Request) operate.Result
	wish   operate.Hand
	answer chan<- operate.Result // buffered
}

// lane gives the lane of an address.
func (d *Daemon) lane(a pci.Address) *lane {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.lanes[a]
	if l == nil {
		l = &lane{d: d, address: a, group: pci.NoGroup, wake: make(chan struct{}, 1)}
		d.lanes[a] = l
	}
	return l
}

// known gives the lane of an address if there is one.
func (d *Daemon) known(a pci.Address) *lane {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lanes[a]
}

// everyLane gives all lanes. A lane's lock is taken before the daemon's, never
// after it.
func (d *Daemon) everyLane() []*lane {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Collect(maps.Values(d.lanes))
}

// ask adds to what a lane has to do, and sees to it that it is done.
func (l *lane) ask(ctx context.Context, add func(*todo)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	add(&l.todo)
	l.poke()
	if l.running {
		return
	}
	l.running = l.d.begin(func() { l.run(ctx) })
	if !l.running {
		l.todo.abandon()
		l.todo = todo{}
	}
}

// begin runs work in a goroutine that a stop waits for, unless the daemon is
// stopping already.
func (d *Daemon) begin(work func()) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopping {
		return false
	}
	d.work.Go(work)
	return true
}

// poke wakes whoever waits for news of the device.
func (l *lane) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run does what there is to do, and ends when there is no more.
func (l *lane) run(ctx context.Context) {
	for {
		l.mu.Lock()
		now := l.todo
		l.todo = todo{}
		if now.empty() || ctx.Err() != nil {
			l.running = false
			l.mu.Unlock()
			now.abandon()
			l.d.regroup(ctx, l)
			return
		}
		l.mu.Unlock()
		l.do(ctx, now)
	}
}

func (l *lane) do(ctx context.Context, now todo) {
	if now.bystand || now.removed && l.isHeld() {
		l.bystand(ctx, now.leaving)
	}
	if now.removed {
		l.clear(now.parted)
	}
	switch {
	case !now.added.IsZero():
		l.visit(ctx, operate.Request{Arrival: operate.HotAdd, At: now.added}, l.d.Operator.Take)
	case now.look:
		l.visit(ctx, operate.Request{Arrival: operate.Found}, l.d.Operator.Take)
	case now.sign:
		l.recheck(ctx)
	}
	for _, driver := range now.offers {
		l.visit(ctx, operate.Request{Arrival: operate.Found}, func(ctx context.Context, r operate.Request) operate.Result {
			return l.d.Operator.Match(ctx, r, driver)
		})
	}
	for _, h := range now.hands {
		if h.client.Err() != nil {
			continue
		}
		h.answer <- l.visit(ctx, operate.Request{Arrival: operate.ByHand, Hand: h.wish}, h.run)
	}
	for _, done := range now.done {
		done()
	}
}

// abandon answers those who still wait when the daemon stops.
func (t *todo) abandon() {
	for _, h := range t.hands {
		h.answer <- operate.Result{Reason: "the daemon is stopping", Remedy: "try again"}
	}
	for _, done := range t.done {
		done()
	}
}

// visit opens the device that is at the address now and lets run work on it.
func (l *lane) visit(ctx context.Context, r operate.Request, run func(context.Context, operate.Request) operate.Result) operate.Result {
	dev, err := l.d.FS.Open(l.address)
	if err != nil {
		result := operate.Result{Address: l.address, Outcome: operate.Gone, Group: pci.NoGroup, Reason: "no device is there"}
		if !sysfs.Gone(err) {
			result.Outcome, result.Reason = operate.Failed, err.Error()
		}
		l.keep(result, r.Arrival)
		l.follow(ctx, result)
		return result
	}
	defer dev.Close()
	r.Device, r.Policy, r.Guard, r.Watch, r.Slow = dev, l.d.policy.Load, l.d.guarding.Load(), l, l.slow
	result := run(ctx, r)
	l.keep(result, r.Arrival)
	l.follow(ctx, result)
	for _, other := range result.Along {
		o := l.d.lane(other.Address)
		o.keep(other, r.Arrival)
		o.ask(ctx, func(t *todo) { t.look = true })
	}
	if result.Seen {
		l.d.see(ctx, guard.Seat{Address: l.address, Identity: dev.Identity()})
	}
	return result
}

// slow tells that the kernel has not come back from a step.
func (l *lane) slow(step string, since time.Duration) {
	l.mu.Lock()
	l.stuck = step
	l.mu.Unlock()
	l.d.logStuck(l.address, step, since)
}

// stuckAt gives the step that the kernel has not come back from, "" for none.
func (l *lane) stuckAt() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stuck
}

// clear ends what we knew of a device that has gone; parted is the last word on
// it. That it has gone is told of one that we have changed or that a rule names,
// once.
func (l *lane) clear(parted operate.Result) {
	l.mu.Lock()
	unused, told := l.vacancy.inUse == nil, l.last.Outcome == operate.Gone
	l.mu.Unlock()
	if unused {
		l.unfollow()
	}
	result, ours := l.d.Operator.Unplugged(l.address)
	switch {
	case ours:
		l.keep(result, operate.HotAdd)
	case parted.Rule != "" && parted.Outcome != operate.Gone && !told:
		// It is not kept: there may be a newcomer already.
		l.d.logResult(parted, operate.Result{Address: l.address, Outcome: operate.Gone, Group: pci.NoGroup, Rule: parted.Rule, Slot: parted.Slot,
			Reason: fmt.Sprintf("it was unplugged; the last word on it was %s: %s", parted.Outcome, parted.Reason)}, operate.HotAdd)
	}
}

// keep remembers and reports a result. An interrupted operation has none.
func (l *lane) keep(result operate.Result, arrival operate.Arrival) {
	if result.Outcome != operate.Stuck && result.Outcome != "" {
		l.letGo()
	}
	l.mu.Lock()
	before := l.last
	l.last, l.stuck = result, ""
	if result.Outcome != operate.Gone {
		l.group = result.Group
	}
	if result.Driver != "" {
		l.newcomer = false
	}
	if result.Outcome == operate.Stuck {
		l.last.Since = l.hold(before, arrival, result.Since)
	}
	l.mu.Unlock()
	if result.Outcome == "" {
		return
	}
	if result.Outcome == operate.Stuck {
		l.heard(result.From)
	}
	l.d.logResult(before, result, arrival)
}

// Wake, Foreign and Saw are the lane's view of the kernel's events, for the
// operation that runs in it.

// Wake receives when something was heard of the device.
func (l *lane) Wake() <-chan struct{} { return l.wake }

// Foreign gives the first driver but those known that was heard of since the
// device was added, and whether events may be missing.
func (l *lane) Foreign(known ...string) (driver string, lost bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.IndexFunc(l.drivers, func(driver string) bool { return !slices.Contains(known, driver) }); i >= 0 {
		return l.drivers[i], l.lost
	}
	return "", l.lost
}

// Saw reports whether the kernel has told that driver is bound.
func (l *lane) Saw(driver string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost || slices.Contains(l.drivers, driver)
}

// heard notes a driver that was bound.
func (l *lane) heard(driver string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if driver != "" && !slices.Contains(l.drivers, driver) {
		l.drivers = append(l.drivers, driver)
	}
	l.poke()
}
