package daemon

import (
	"context"
	"path"
	"strings"

	"github.com/pilebones/go-udev/netlink"

	"vfio-hotplug/internal/operate"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/uevent"
)

// dispatch hands an event to the lane of its device. It does not wait.
func (d *Daemon) dispatch(ctx context.Context, ev *uevent.Event) {
	switch ev.Env["SUBSYSTEM"] {
	case "pci":
	case "drivers":
		d.dispatchDriver(ctx, ev)
		return
	case "block":
		d.dispatchChild(ctx, ev)
		d.dispatchBlock(ctx, ev)
		return
	default:
		d.dispatchChild(ctx, ev)
		return
	}
	address, err := pci.ParseAddress(path.Base(ev.KObj))
	if err != nil {
		return
	}
	switch ev.Action {
	case netlink.ADD:
		// Events that user space asked for ("udevadm trigger") come with a
		// SYNTH_UUID; they tell nothing new of a device that is at work.
		if ev.Env["SYNTH_UUID"] != "" {
			d.lane(address).ask(ctx, func(t *todo) { t.look = true })
			return
		}
		at := ev.At
		d.lane(address).added(ctx, func(t *todo) { t.added = at })
	case netlink.REMOVE:
		d.lane(address).removed(ctx)
	case netlink.BIND:
		l, g, driver := d.lane(address), d.guarding.Load(), ev.Env["DRIVER"]
		d.regroup(ctx, l)
		l.heard(driver)
		l.othersDid(ctx)
		switch {
		case !g.Concerns(driver):
			l.arrived()
		case l.late(g, driver):
			l.ask(ctx, func(t *todo) { t.look = true })
		}
	case netlink.UNBIND:
		if l := d.known(address); l != nil {
			l.poke()
			d.regroup(ctx, l)
			l.othersDid(ctx)
		}
	}
}

// added begins a new life of the address: what was heard before was of another
// device.
func (l *lane) added(ctx context.Context, add func(*todo)) {
	l.mu.Lock()
	l.drivers, l.lost, l.last, l.newcomer, l.vacancy, l.barred = nil, false, operate.Result{}, true, vacancy{due: l.vacancy.due}, ""
	l.life++
	l.held.forget()
	l.mu.Unlock()
	l.ask(ctx, add)
}

// removed ends a life of the address.
func (l *lane) removed(ctx context.Context) { l.gone(ctx, nil) }

// missing ends the life of an address that is no longer there, unless another
// has begun since.
func (l *lane) missing(ctx context.Context, life int) { l.gone(ctx, &life) }

func (l *lane) gone(ctx context.Context, life *int) {
	l.mu.Lock()
	if life != nil && *life != l.life {
		l.mu.Unlock()
		return
	}
	parted := l.last
	l.drivers, l.last, l.newcomer, l.vacancy, l.barred = nil, operate.Result{}, false, vacancy{due: l.vacancy.due}, ""
	l.held.forget()
	l.mu.Unlock()
	l.ask(ctx, func(t *todo) {
		t.removed, t.look = true, false
		if parted.Outcome != "" {
			t.parted = parted
		}
	})
}

// late reports whether a driver that has come to the device now is the guard's,
// and we have stopped waiting for it: the kernel took longer than we did.
func (l *lane) late(g *operate.Guarding, driver string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	waited := l.last.Outcome != "" && l.last.Outcome != operate.Gone && l.last.Driver == ""
	return g != nil && l.newcomer && waited && g.Concerns(driver)
}

// arrived notes that a device has a driver that no guard gives it.
func (l *lane) arrived() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.newcomer = false
}

// dispatchChild uses what other subsystems tell of a PCI device below which
// they stand: a controller of nvme shows that nvme has the device, before the
// bind itself is told; whoever waits for namespaces is woken; and where vfio's
// own device goes, the driver is being taken away.
func (d *Daemon) dispatchChild(ctx context.Context, ev *uevent.Event) {
	address, ok := parent(ev.KObj)
	if !ok {
		return
	}
	l := d.known(address)
	if l == nil {
		return
	}
	if ev.Env["SUBSYSTEM"] == "nvme" && ev.Action == netlink.ADD {
		l.heard("nvme")
		return
	}
	l.poke()
	if ev.Env["SUBSYSTEM"] == "vfio-dev" && ev.Action == netlink.REMOVE {
		at := ev.At
		l.ask(ctx, func(t *todo) { t.bystand, t.leaving = true, at })
	}
}

// parent gives the innermost PCI function in a device's path.
func parent(devpath string) (pci.Address, bool) {
	for dir := path.Dir(devpath); strings.HasPrefix(dir, "/devices/"); dir = path.Dir(dir) {
		if a, err := pci.ParseAddress(path.Base(dir)); err == nil {
			return a, true
		}
	}
	return pci.Address{}, false
}

// lost marks every device at work: whether another driver touched it can no
// longer be known.
func (d *Daemon) lost() {
	for _, l := range d.everyLane() {
		l.mu.Lock()
		l.lost = true
		l.mu.Unlock()
	}
}
