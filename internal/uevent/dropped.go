package uevent

import "sync/atomic"

// Dropped counts the messages that Receive did not hand out, by reason, since
// the Conn was opened. What the kernel itself dropped is not in it: that is
// what ErrOverrun says, and nobody knows how much it was.
type Dropped struct {
	// Foreign messages did not come from the kernel as root.
	Foreign uint64
	// Truncated messages were longer than any that the kernel sends.
	Truncated uint64
	// Malformed messages could not be parsed.
	Malformed uint64
	// UnknownAction messages had an action that this program does not know.
	UnknownAction uint64
	// Overrun counts events that were still queued when others had been lost.
	Overrun uint64
}

type dropCounters struct {
	foreign, truncated, malformed, unknownAction, overrun atomic.Uint64
}

func (c *dropCounters) snapshot() Dropped {
	return Dropped{
		Foreign:       c.foreign.Load(),
		Truncated:     c.truncated.Load(),
		Malformed:     c.malformed.Load(),
		UnknownAction: c.unknownAction.Load(),
		Overrun:       c.overrun.Load(),
	}
}
