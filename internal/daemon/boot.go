package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"vfio-hotplug/internal/journal"
	"vfio-hotplug/internal/operate"
)

// ErrLate says that a scan at boot was not through in its time.
var ErrLate = errors.New("some devices have not answered in time: the daemon goes on with them")

// Boot looks once at every device that is there, before udev loads drivers, and
// takes those that the policy wants and that no driver has. All others are left
// to Run. It returns when every device has been looked at, or with
// ErrLate when ctx ends: what is half done then stands in the ledger, and Run
// finishes it. It needs no event source.
func (d *Daemon) Boot(ctx context.Context) error {
	present, err := d.FS.Devices()
	if err != nil {
		return fmt.Errorf("scan: %w: is sysfs mounted?", err)
	}
	var looking sync.WaitGroup
	for _, address := range present {
		l := d.lane(address)
		looking.Go(func() {
			l.visit(ctx, operate.Request{Arrival: operate.AtBoot}, d.Operator.Take)
		})
	}
	looked := make(chan struct{})
	go func() { looking.Wait(); close(looked) }()
	select {
	case <-looked:
		return nil
	case <-ctx.Done():
		return ErrLate
	}
}

// free lets go of what udev's coldplug has kept and the first scan has not
// taken.
func (d *Daemon) free(ctx context.Context) {
	if d.Kept == nil {
		return
	}
	err := d.Operator.Free(ctx)
	if err == nil {
		err = d.Kept()
	}
	if err != nil && ctx.Err() == nil {
		d.Log.Error("let go of what was kept at boot: "+oneLine(err)+"; next: systemctl restart vfio-hotplug", journal.MessageFailed.Attr())
	}
}
