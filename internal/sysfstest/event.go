package sysfstest

import (
	"context"
	"maps"
	"strconv"
	"sync"
	"syscall"
)

// Event is a uevent of the kernel.
type Event struct {
	Action  string
	DevPath string            // "/devices/pci0000:00/..."
	Env     map[string]string // with ACTION, DEVPATH, SUBSYSTEM and SEQNUM
	Seq     uint64
}

// broadcast hands events to the subscribers, in order. Kernel.mu guards it.
type broadcast struct {
	seq         uint64
	subscribers []*Events
}

// Events is a subscription: what a netlink socket is to the real kernel. It
// holds any number of events.
type Events struct {
	k     *Kernel
	mu    sync.Mutex
	queue []Event
	lost  bool
	more  chan struct{}
}

// Subscribe gives the events from now on.
func (k *Kernel) Subscribe() *Events {
	k.mu.Lock()
	defer k.mu.Unlock()
	e := &Events{k: k, more: make(chan struct{}, 1)}
	k.bus.subscribers = append(k.bus.subscribers, e)
	return e
}

// Next waits for the next event. It answers ENOBUFS once after Overrun.
// One goroutine at a time may wait.
func (e *Events) Next(ctx context.Context) (Event, error) {
	for {
		if event, ok, err := e.take(); ok || err != nil {
			return event, err
		}
		select {
		case <-e.more:
		case <-ctx.Done():
			return Event{}, ctx.Err()
		}
	}
}

// Pending takes all events that have come and were not read yet.
func (e *Events) Pending() []Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	events := e.queue
	e.queue = nil
	return events
}

// Overrun loses what has not been read yet, as a socket does whose buffer is
// full, and has the next Next answer ENOBUFS.
func (e *Events) Overrun() {
	e.mu.Lock()
	e.queue, e.lost = nil, true
	e.mu.Unlock()
	e.wake()
}

func (e *Events) take() (event Event, ok bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.lost {
		e.lost = false
		return Event{}, false, syscall.ENOBUFS
	}
	if len(e.queue) == 0 {
		return Event{}, false, nil
	}
	event, e.queue = e.queue[0], e.queue[1:]
	return event, true, nil
}

func (e *Events) put(event Event) {
	e.mu.Lock()
	e.queue = append(e.queue, event)
	e.mu.Unlock()
	e.wake()
}

func (e *Events) wake() {
	select {
	case e.more <- struct{}{}:
	default:
	}
}

// Emit sends an event that the model has no cause for, such as a synthetic
// one. The kernel's own fields are added to env.
func (k *Kernel) Emit(action, devpath, subsystem string, env map[string]string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.emit(action, devpath, subsystem, env)
}

func (k *Kernel) emit(action, devpath, subsystem string, env map[string]string) {
	k.bus.seq++
	for _, s := range k.bus.subscribers {
		all := map[string]string{
			"ACTION":    action,
			"DEVPATH":   devpath,
			"SUBSYSTEM": subsystem,
			"SEQNUM":    strconv.FormatUint(k.bus.seq, 10),
		}
		maps.Copy(all, env)
		s.put(Event{Action: action, DevPath: devpath, Env: all, Seq: k.bus.seq})
	}
}
