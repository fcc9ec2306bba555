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
	for _, address := range d.remembered() {
		if !slices.Contains(present, address) {
			d.lane(address).removed(ctx)
		}
	}
}

// remembered gives the addresses that a lane or the ledger knows, in order.
func (d *Daemon) remembered() []pci.Address {
	all, err := d.Operator.Recorded()
	if err != nil {
		d.Log.Error(strings.ReplaceAll(err.Error(), "\n", "; "), journal.MessageFailed.Attr())
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for address := range d.lanes {
		all = append(all, address)
	}
	slices.SortFunc(all, pci.Address.Compare)
	return slices.Compact(all)
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
// and has had no driver when it was last looked at.
func (d *Daemon) newcomer(a pci.Address) bool {
	l := d.known(a)
	if l == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.newcomer
}
