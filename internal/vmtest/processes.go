package vmtest

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"vfio-hotplug/internal/vmtest/wire"
)

// What the guest's agent says of programs and their output.
type (
	Command    = wire.Command
	Background = wire.Background
	Finished   = wire.Finished
	Line       = wire.Line
)

// Run runs a program in the guest to its end. That it failed is no error here:
// look at the result.
func (g *Guest) Run(ctx context.Context, c Command) (Finished, error) {
	if deadline, ok := ctx.Deadline(); ok && c.Timeout == 0 {
		c.Timeout = time.Until(deadline)
	}
	var reply Finished
	return reply, g.call(ctx, "Run", c, &reply)
}

// A Process is a program that runs in the guest's background.
type Process struct {
	PID int

	guest  *Guest
	number int
}

// Start starts a program in the background. Its output is kept, line by line.
func (g *Guest) Start(ctx context.Context, b Background) (*Process, error) {
	var reply wire.Started
	if err := g.call(ctx, "Start", b, &reply); err != nil {
		return nil, err
	}
	p := &Process{PID: reply.PID, guest: g, number: reply.Process}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.processes = append(g.processes, p)
	return p, nil
}

// ErrEnded is the reason that a wait for output ends when the program is over.
var ErrEnded = errors.New("the program is over")

// Lines gives what the program wrote from line since on, and waits for a line
// that matches the regular expression, "" for any. The last of the lines is
// the one that matched.
func (p *Process) Lines(ctx context.Context, since int, match string) ([]Line, error) {
	var all []Line
	for {
		var reply wire.LinesReply
		ask := wire.Lines{Process: p.number, Since: since + len(all), Match: match, Timeout: patience}
		if err := p.guest.call(ctx, "Lines", ask, &reply); err != nil {
			return all, err
		}
		all = append(all, reply.Lines...)
		if reply.Found {
			return all, nil
		}
		if reply.Ended != nil {
			return all, fmt.Errorf("process %d, exit code %d, no line matched %q: %w", p.PID, reply.Ended.Code, match, ErrEnded)
		}
	}
}

// patience is how long the agent holds back one answer: a question that was
// given up does not stay in the guest for ever.
const patience = 10 * time.Second

// Output gives all that the program wrote so far.
func (p *Process) Output(ctx context.Context) ([]Line, error) {
	var reply wire.LinesReply
	// No line matches the empty set of characters.
	ask := wire.Lines{Process: p.number, Match: `[^\x00-\x{10FFFF}]`}
	return reply.Lines, p.guest.call(ctx, "Lines", ask, &reply)
}

// Signal sends a signal.
func (p *Process) Signal(ctx context.Context, s syscall.Signal) error {
	var reply wire.Outcome
	if err := p.guest.call(ctx, "Kill", wire.Kill{Process: p.number, Signal: s}, &reply); err != nil {
		return err
	}
	return failure(reply)
}

// Wait waits for the program's end.
func (p *Process) Wait(ctx context.Context) (Finished, error) {
	for {
		var reply Finished
		if err := p.guest.call(ctx, "Wait", wire.Wait{Process: p.number, Timeout: patience}, &reply); err != nil {
			return reply, err
		}
		if !reply.TimedOut {
			return reply, nil
		}
	}
}
