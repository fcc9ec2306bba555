package journal

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"

	systemd "github.com/coreos/go-systemd/v22/journal"
)

// Bounds of what waits for journald, in entries and in bytes.
const (
	queueEntries = 1024
	queueBytes   = 4 << 20
)

// Sender writes one entry to journald. It may block for as long as journald
// stalls. go-systemd's journal.Send is one.
type Sender func(message string, priority systemd.Priority, fields map[string]string) error

// Queue stands between a program that must not wait and a journald that may
// stall: a bounded queue, and one goroutine that empties it. What does not
// fit, and what journald refuses, is dropped and counted; once entries pass
// again, one more tells how many are missing.
type Queue struct {
	send       Sender
	identifier string
	entries    chan entry
	bytes      atomic.Int64
	lost       atomic.Uint64
	done       chan struct{}

	mu     sync.Mutex
	closed bool
}

type entry struct {
	message  string
	priority systemd.Priority
	fields   map[string]string
}

// NewQueue starts the goroutine that sends. Close ends it.
func NewQueue(send Sender, identifier string) *Queue {
	q := &Queue{
		send:       send,
		identifier: identifier,
		entries:    make(chan entry, queueEntries),
		done:       make(chan struct{}),
	}
	go q.run()
	return q
}

// Dropped gives the number of entries dropped and not yet told in the
// journal.
func (q *Queue) Dropped() uint64 { return q.lost.Load() }

// Close sends what waits and ends the goroutine. What is logged after it is
// dropped. When ctx ends first, Close returns its error with the number of
// entries that were not written; the goroutine then ends only when journald
// lets go of it. Close may be called again.
func (q *Queue) Close(ctx context.Context) error {
	q.shut()
	select {
	case <-q.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("write the last %d entries to journald: %w", len(q.entries), context.Cause(ctx))
	}
}

func (q *Queue) shut() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.closed = true
		close(q.entries)
	}
}

// put never blocks: the lock is never held across a send.
func (q *Queue) put(e entry) {
	size := e.size()
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.bytes.Load()+size > queueBytes {
		q.lost.Add(1)
		return
	}
	q.bytes.Add(size)
	select {
	case q.entries <- e:
	default:
		q.bytes.Add(-size)
		q.lost.Add(1)
	}
}

func (q *Queue) run() {
	defer close(q.done)
	behind := 0
	for e := range q.entries {
		err := q.send(e.message, e.priority, e.fields)
		q.bytes.Add(-e.size())
		if err != nil {
			q.lost.Add(1)
			continue
		}
		if q.lost.Load() == 0 {
			behind = 0
			continue
		}
		// What waits is older than what was dropped: tell after it. Under a
		// load that never lets the queue run empty, tell once in its length.
		if behind++; len(q.entries) == 0 || behind > cap(q.entries) {
			q.tell()
			behind = 0
		}
	}
}

// tell writes the entry that says how many are missing.
func (q *Queue) tell() {
	n := q.lost.Swap(0)
	err := q.send(
		dropped(n)+", because journald was too slow",
		systemd.PriWarning,
		map[string]string{
			"MESSAGE_ID":        string(MessageDropped),
			"SYSLOG_IDENTIFIER": q.identifier,
			"DROPPED":           strconv.FormatUint(n, 10),
		})
	if err != nil {
		q.lost.Add(n)
	}
}

func (e entry) size() int64 {
	n := len(e.message)
	for name, value := range e.fields {
		n += len(name) + len(value)
	}
	return int64(n)
}

func dropped(n uint64) string {
	if n == 1 {
		return "1 journal entry was dropped"
	}
	return fmt.Sprintf("%d journal entries were dropped", n)
}
