package daemon

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"vfio-hotplug/internal/journal"
	"vfio-hotplug/internal/pci"
)

// scan has every device looked at: those that are there, and those that we
// know and that are no longer there. It only fills mailboxes; looked, if not
// nil, ends when every device that is there has been looked at.
func (d *Daemon) scan(ctx context.Context, looked *sync.WaitGroup) {
	known := d.remembered() // before the list is read: what comes after it is not missing from it
	present, err := d.FS.Devices()
	if err != nil {
		d.Log.Error("scan: "+err.Error()+": is sysfs mounted?", journal.MessageFailed.Attr())
		return
	}
	for _, address := range present {
		d.lane(address).ask(ctx, func(t *todo) {
			t.removed, t.look = true, true
			if looked != nil {
				looked.Add(1)
				t.done = append(t.done, looked.Done)
			}
		})
	}
	for address, life := range known {
		if !slices.Contains(present, address) {
			d.lane(address).missing(ctx, life)
		}
	}
}

// remembered gives the addresses that a lane or the ledger knows, each with its
// life so far.
func (d *Daemon) remembered() map[pci.Address]int {
	all, err := d.Operator.Recorded()
	if err != nil {
		d.Log.Error(strings.ReplaceAll(err.Error(), "\n", "; "), journal.MessageFailed.Attr())
	}
	known := map[pci.Address]int{}
	for _, address := range all {
		known[address] = 0
	}
	for _, l := range d.everyLane() {
		l.mu.Lock()
		known[l.address] = l.life
		l.mu.Unlock()
	}
	return known
}

// firstScan looks at every device and waits for the answers, for a bounded
// time. It reports whether all have answered.
func (d *Daemon) firstScan(ctx context.Context) bool {
	var looked sync.WaitGroup
	d.scan(ctx, &looked)
	all := make(chan struct{})
	go func() { looked.Wait(); close(all) }()
	select {
	case <-all:
		return ctx.Err() == nil
	case <-ctx.Done():
	case <-time.After(readyWithin):
		d.Log.Warn("some devices have not answered the first scan; going on without them", slog.Duration("waited", readyWithin))
	}
	return false
}

// offer has every device that has no driver offered to one that has come.
func (d *Daemon) offer(ctx context.Context, driver string) {
	present, err := d.FS.Devices()
	if err != nil {
		d.Log.Error("offer devices to "+driver+": "+err.Error(), journal.MessageFailed.Attr())
		return
	}
	for _, address := range present {
		d.lane(address).ask(ctx, func(t *todo) { t.offers = append(t.offers, driver) })
	}
}

// newcomer reports whether what is at an address was plugged since we listen,
// or just before, so that its event went to nobody and the kernel is still at
// it; and no driver has had it.
func (d *Daemon) newcomer(a pci.Address) bool {
	announced := d.Added != nil && !d.Added(a)
	l := d.lane(a)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.newcomer = l.newcomer || announced
	return l.newcomer
}
