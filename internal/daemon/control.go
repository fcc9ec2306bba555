package daemon

import (
	"context"
	"fmt"
	"time"

	"vfio-hotplug/internal/control"
	"vfio-hotplug/internal/operate"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/policy"
)

// Handlers gives what the daemon answers on its socket. ctx is the one of Run:
// a command that has begun goes on when its client leaves.
func (d *Daemon) Handlers(ctx context.Context) map[string]control.Handler {
	return map[string]control.Handler{
		control.MethodStatus:  {Handle: d.handleStatus},
		control.MethodBind:    {Root: true, Handle: d.handleBind(ctx)},
		control.MethodRelease: {Root: true, Handle: d.handleRelease(ctx)},
	}
}

func (d *Daemon) handleStatus(_ context.Context, c *control.Call) (any, error) {
	var in control.StatusRequest
	if err := c.Decode(&in); err != nil {
		return nil, err
	}
	lines, err := d.surveys.share(func() ([]operate.Line, error) { return d.Operator.Survey(d.policy.Load()) })
	if err != nil && len(lines) == 0 {
		return nil, err
	}
	reply := control.StatusReply{Devices: []control.Device{}, Faults: Faults(err)}
	if g := d.chosen.Load(); g != nil {
		reply.Guard = &control.Guard{Mode: string(g.Mode), Reason: g.Why, Remedy: g.Remedy, Pending: !g.armed}
	}
	for _, line := range lines {
		if !in.All && !line.Named() {
			continue
		}
		last := d.last(line.Address)
		if c.Peer.UID != 0 {
			last = last.ForOthers()
			if line.Leaving.Veto {
				line.Leaving = line.Leaving.ForOthers()
			}
		}
		reply.Devices = append(reply.Devices, Describe(line, last))
	}
	return reply, nil
}

// last gives the last result about an address, the zero one for none.
func (d *Daemon) last(a pci.Address) operate.Result {
	l := d.known(a)
	if l == nil {
		return operate.Result{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

func (d *Daemon) handleBind(daemon context.Context) func(context.Context, *control.Call) (any, error) {
	return func(client context.Context, c *control.Call) (any, error) {
		var in control.BindRequest
		if err := c.Decode(&in); err != nil {
			return nil, err
		}
		if err := policy.CheckDriver(in.Driver); in.Driver != "" && err != nil {
			return nil, err
		}
		wish := operate.Hand{Driver: in.Driver}
		if in.Takeover != "" {
			takeover, err := policy.ParseTakeover(in.Takeover)
			if err != nil {
				return nil, err
			}
			wish.Takeover = &takeover
		}
		return d.command(daemon, client, in.Address, hand{run: d.Operator.Take, wish: wish})
	}
}

func (d *Daemon) handleRelease(daemon context.Context) func(context.Context, *control.Call) (any, error) {
	return func(client context.Context, c *control.Call) (any, error) {
		var in control.ReleaseRequest
		if err := c.Decode(&in); err != nil {
			return nil, err
		}
		return d.command(daemon, client, in.Address, hand{run: d.Operator.Release})
	}
}

// command has a lane do what a hand asks for, and waits for the result; not
// for ever where the kernel hangs on the device.
func (d *Daemon) command(daemon, client context.Context, address string, h hand) (any, error) {
	a, err := pci.ParseAddress(address)
	if err != nil {
		return nil, err
	}
	answer := make(chan operate.Result, 1)
	h.client, h.answer = client, answer
	l := d.lane(a)
	l.ask(daemon, func(t *todo) { t.hands = append(t.hands, h) })
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for {
		select {
		case result := <-answer:
			return control.DeviceReply{Device: DescribeResult(result)}, nil
		case <-client.Done():
			return nil, fmt.Errorf("%s: what has begun goes on without you: see vfio-hotplug status", a)
		case <-daemon.Done():
			return nil, fmt.Errorf("%s: the daemon is stopping: try again", a)
		case <-look.C:
			if step := l.stuckAt(); step != "" {
				return nil, fmt.Errorf("%s is stuck: %s has not ended; what has begun goes on: see vfio-hotplug status", a, step)
			}
		}
	}
}
