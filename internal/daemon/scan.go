package daemon

import (
	"context"
	"log/slog"
	"slices"
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
	for _, l := range d.all() {
		if !slices.Contains(present, l.address) {
			l.ask(ctx, func(t *todo) { t.removed = true })
		}
	}
}

// firstScan looks at every device and waits for the answers, for a bounded
// time.
func (d *Daemon) firstScan(ctx context.Context) {
	var looked sync.WaitGroup
	d.scan(ctx, &looked)
	all := make(chan struct{})
	go func() { looked.Wait(); close(all) }()
	select {
	case <-all:
	case <-ctx.Done():
	case <-time.After(readyWithin):
		d.Log.Warn("some devices have not answered the first scan; going on without them", slog.Duration("waited", readyWithin))
	}
}

// all gives every lane, in order of address.
func (d *Daemon) all() []*lane {
	d.mu.Lock()
	defer d.mu.Unlock()
	lanes := make([]*lane, 0, len(d.lanes))
	for _, l := range d.lanes {
		lanes = append(lanes, l)
	}
	slices.SortFunc(lanes, func(a, b *lane) int { return pci.Address.Compare(a.address, b.address) })
	return lanes
}
