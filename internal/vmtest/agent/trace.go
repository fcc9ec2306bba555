package main

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/vmtest/wire"
)

// ringSize is the kernel's memory for writes that were not recorded yet: some
// three thousand.
const ringSize = 8 << 20

// A tracer records every write below /sys, by way of an eBPF program on the
// function that all of them enter. It runs from the start: what the kernel
// patches for it in its own code is best patched while there is one processor
// (see wakeProcessors).
type tracer struct {
	journal[traced]
	ring *ringbuf.Reader
	lost *ebpf.Map
	err  error // why there is no trace
	// The ring's descriptor and the probe are closed when they are forgotten.
	writes *ebpf.Map
	probe  link.Link

	mu     sync.Mutex
	begun  int    // the first entry that counts
	before uint64 // how many were lost until then
}

// traced is a write, or why one cannot be told.
type traced struct {
	wire.SysWrite
	err error
}

func startTracer() *tracer {
	t := &tracer{}
	t.err = t.start()
	return t
}

func (t *tracer) start() error {
	// Of a package guest systemd does this too, later.
	if err := unix.Mount("tracefs", tracing, "tracefs", 0, ""); err != nil && err != unix.EBUSY {
		return fmt.Errorf("mount %s: %w", tracing, err)
	}
	o, err := kernelOffsets()
	if err != nil {
		return err
	}
	t.writes, err = ebpf.NewMap(&ebpf.MapSpec{Name: "writes", Type: ebpf.RingBuf, MaxEntries: ringSize})
	if err != nil {
		return err
	}
	t.lost, err = ebpf.NewMap(&ebpf.MapSpec{Name: "lost", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		return err
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "syswrite", Type: ebpf.Kprobe, License: "GPL", Instructions: o.program(t.writes, t.lost),
	})
	if err != nil {
		return err
	}
	if t.ring, err = ringbuf.NewReader(t.writes); err != nil {
		return err
	}
	if t.probe, err = link.Kprobe("kernfs_fop_write_iter", program, nil); err != nil {
		return err
	}
	go t.record(o.userBuffer)
	return nil
}

func (t *tracer) record(userBuffer uint64) {
	defer t.close()
	for {
		raw, err := t.ring.Read()
		if errors.Is(err, ringbuf.ErrFlushed) {
			continue
		}
		if err != nil {
			t.add(traced{err: err})
			return
		}
		if w, ok, err := parseRecord(raw.RawSample, userBuffer); ok || err != nil {
			t.add(traced{w, err})
		}
	}
}

// tracing is where kprobes are planted on kernels that have no other way.
const tracing = "/sys/kernel/tracing"

// TraceWrites begins a trace of writes below /sys, or begins it anew.
func (a *Agent) TraceWrites(_ wire.Nothing, reply *wire.Outcome) error {
	*reply = outcome(a.trace.begin())
	return nil
}

// begin forgets what the trace has.
func (t *tracer) begin() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	next, err := t.catchUp()
	if err != nil {
		return err
	}
	t.begun = next
	return t.lost.Lookup(uint32(0), &t.before)
}

// Writes gives what the trace has. It is an error if the trace does not see a
// write of the agent's own, made to test it.
func (a *Agent) Writes(_ wire.Nothing, reply *wire.TraceReply) error {
	writes, lost, err := a.trace.read()
	*reply = wire.TraceReply{Writes: writes, Lost: lost, Outcome: outcome(err)}
	return nil
}

func (t *tracer) read() ([]wire.SysWrite, int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, err := t.catchUp(); err != nil {
		return nil, 0, err
	}
	entries, _, _, _ := t.since(t.begun)
	var writes []wire.SysWrite
	for _, entry := range entries {
		if entry.err != nil {
			return nil, 0, entry.err
		}
		if !entry.isCanary() {
			writes = append(writes, entry.SysWrite)
		}
	}
	var lost uint64
	err := t.lost.Lookup(uint32(0), &lost)
	return writes, int(lost - t.before), err
}

// canary is an attribute that may be written at any time: whether RCU hurries.
// It is 0 and stays so.
const canary = "kernel/rcu_expedited"

func (t traced) isCanary() bool { return t.Own && t.Path == canary && t.Data == "0" }

// catchUp waits until the trace has all that was written before, and gives the
// number of its next entry. The kernel's ring keeps its records in order.
func (t *tracer) catchUp() (int, error) {
	if t.err != nil {
		return 0, t.err
	}
	old, _, _, _ := t.since(0)
	if err := os.WriteFile("/sys/"+canary, []byte("0"), 0); err != nil {
		return 0, err
	}
	// It does not depend on the kernel to wake the reader in time.
	if err := t.ring.Flush(); err != nil {
		return 0, err
	}
	seen := false
	next := t.scan(len(old), time.Minute, func(entry traced) bool {
		seen = entry.isCanary()
		return seen
	})
	if !seen {
		return 0, fmt.Errorf("the trace of writes is blind: it did not see the agent's own; of all since the start it has %d", next)
	}
	return next, nil
}
