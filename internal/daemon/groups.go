package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"vfio-hotplug/internal/journal"
	"vfio-hotplug/internal/operate"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
)

// groups are the IOMMU groups in which something has changed, to be looked at.
// Any number of changes to one group is one look at it, by one goroutine that
// exists only while there is one to look at.
type groups struct {
	mu      sync.Mutex
	changed map[int]bool
	looking bool
}

// regroup has the group of a device looked at, since the device has come to it,
// has left it, or has another driver now. A group of which the device is not
// known to be is looked at when its lane has done with it.
func (d *Daemon) regroup(ctx context.Context, l *lane) {
	l.mu.Lock()
	group := l.group
	l.mu.Unlock()
	if group == pci.NoGroup {
		return
	}
	g := &d.groups
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.changed == nil {
		g.changed = map[int]bool{}
	}
	g.changed[group] = true
	if !g.looking {
		g.looking = d.begin(func() { d.lookAtGroups(ctx) })
	}
}

// lookAtGroups looks until nothing has changed any more.
func (d *Daemon) lookAtGroups(ctx context.Context) {
	g := &d.groups
	for {
		g.mu.Lock()
		changed := g.changed
		g.changed = nil
		if len(changed) == 0 || ctx.Err() != nil {
			g.looking = false
			g.mu.Unlock()
			return
		}
		g.mu.Unlock()
		for _, l := range d.members(changed) {
			l.reviewGroup(ctx)
		}
	}
}

// members gives the lanes of the devices that were last known to be in one of
// these groups, unless an operation in one of them is under way: its end has the
// group looked at again.
func (d *Daemon) members(of map[int]bool) []*lane {
	in := map[int][]*lane{}
	busy := map[int]bool{}
	for _, l := range d.everyLane() {
		l.mu.Lock()
		if of[l.group] {
			in[l.group] = append(in[l.group], l)
			busy[l.group] = busy[l.group] || l.running
		}
		l.mu.Unlock()
	}
	var all []*lane
	for group, lanes := range in {
		if !busy[group] {
			all = append(all, lanes...)
		}
	}
	return all
}

// reviewGroup compares how a device and its group stand now to what is known of
// them. One that is bound and whose group a program can no longer have is
// reported, once, and so is the end of that. One that was refused for its group
// is looked at again when other devices are in its way than then, unless
// somebody else has changed its own driver since.
func (l *lane) reviewGroup(ctx context.Context) {
	l.mu.Lock()
	last, before := l.last, l.barred
	l.mu.Unlock()
	if !last.Outcome.Bound() && last.InTheWay == "" && before == "" {
		return
	}
	now, err := l.d.Operator.Standing(l.address)
	if err != nil {
		if !sysfs.Gone(err) {
			l.d.Log.Error(oneLine(fmt.Errorf("look at the IOMMU group of %s: %w", l.address, err)), journal.MessageFailed.Attr())
		}
		return
	}
	barred := ""
	if last.Outcome.Bound() && now.Open {
		barred = now.InTheWay
	}
	l.mu.Lock()
	l.barred = barred
	l.mu.Unlock()
	l.d.logBarred(last, now, before, barred)
	if last.InTheWay != "" && last.InTheWay != now.InTheWay && last.Driver == now.Driver {
		l.ask(ctx, func(t *todo) { t.look = true })
	}
}

// logBarred tells that a program can no longer open a device that is bound, or
// that it can again.
func (d *Daemon) logBarred(last operate.Result, now operate.Standing, before, barred string) {
	if barred == "" {
		if before != "" && now.Open {
			d.Log.LogAttrs(context.Background(), slog.LevelInfo,
				fmt.Sprintf("IOMMU group %d is viable again: a program can open %s", now.Group, last.Address),
				append(attrs(last), journal.MessageViable.Attr())...)
		}
		return
	}
	if before == "" {
		last.Reason = fmt.Sprintf("IOMMU group %d is not viable, because of %s", now.Group, barred)
		last.Remedy = "vfio-hotplug explain " + last.Address.String()
		d.Log.LogAttrs(context.Background(), slog.LevelWarn,
			fmt.Sprintf("no program can open %s: %s%s", last.Address, last.Reason, next(last.Remedy)),
			append(attrs(last), journal.MessageNotViable.Attr())...)
	}
}
