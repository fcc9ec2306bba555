package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/vmtest/wire"
)

const (
	tracing = "/sys/kernel/tracing/"
	event   = "events/vmtest/syswrite/"
	// mostLevels is how much of a path a trace has at most: the kernel takes 63
	// characters for an argument, and each level costs five.
	mostLevels = 7
	// leastLevels reach from an attribute of a drive to the name of the bridge
	// above it.
	leastLevels = 4
	// traceBuffer is the kernel's memory for a trace, per processor.
	traceBuffer = "8192" // KiB
)

// A tracer records every write below /sys by way of a kprobe on the function
// that all of them enter (fs/kernfs/file.c). It runs from the start: what the
// kernel patches for it in its own code is best patched while there is one
// processor (see wakeProcessors).
type tracer struct {
	mu         sync.Mutex
	userBuffer uint64
	err        error // why there is no trace
}

func startTracer() *tracer {
	t := &tracer{}
	t.userBuffer, t.err = trace()
	return t
}

func trace() (userBuffer uint64, err error) {
	// Of a package guest systemd does this too, later.
	if err := unix.Mount("tracefs", tracing, "tracefs", 0, ""); err != nil && err != unix.EBUSY {
		return 0, fmt.Errorf("mount %s: %w", tracing, err)
	}
	o, err := kernelOffsets()
	if err != nil {
		return 0, err
	}
	if err := o.plant(); err != nil {
		return 0, err
	}
	for _, step := range []struct{ file, value string }{
		{"trace_clock", "mono"},
		{"buffer_size_kb", traceBuffer},
		{"options/record-tgid", "1"},
		{event + "enable", "1"},
	} {
		if err := put(step.file, step.value); err != nil {
			return 0, err
		}
	}
	return o.userBuffer, nil
}

// TraceWrites begins a trace of writes below /sys, or begins it anew.
func (a *Agent) TraceWrites(_ wire.Nothing, reply *wire.Outcome) error {
	*reply = outcome(a.trace.clear())
	return nil
}

// clear forgets what the trace has.
func (t *tracer) clear() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return t.err
	}
	return put("trace", "")
}

func put(file, value string) error { return os.WriteFile(tracing+file, []byte(value), 0) }

// complaint is what the kernel says was wrong, in more words than an errno.
func complaint() string {
	text, err := os.ReadFile(tracing + "error_log")
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// plant defines the probe, with as many levels as the kernel takes: from 7.x on
// it also limits how deep an argument may nest.
func (o offsets) plant() error {
	var err error
	for levels := mostLevels; levels >= leastLevels; levels-- {
		if err = put("kprobe_events", o.probe(levels)); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%w: %s", err, complaint())
}

// probe gives the line for kprobe_events (Documentation/trace/kprobetrace.rst).
// The registers are the function's first two arguments: kiocb and iov_iter.
func (o offsets) probe(levels int) string {
	var b strings.Builder
	b.WriteString("p:vmtest/syswrite kernfs_fop_write_iter comm=$comm")
	dentry := fmt.Sprintf("+%d(+%d(%%di))", o.fileDentry, o.kiocbFile)
	for level := range levels {
		fmt.Fprintf(&b, " n%d=+0(+%d(%s)):string", level, o.dentryName, dentry)
		dentry = fmt.Sprintf("+%d(%s)", o.dentryParent, dentry)
	}
	fmt.Fprintf(&b, " type=+%d(%%si):u8 size=+%d(%%si):u64 data=+0(+%d(%%si)):ustring", o.iterType, o.iterCount, o.iterBuffer)
	return b.String()
}

// Writes gives what the trace has. It is an error if the trace does not see a
// write of the agent's own, made to test it.
func (a *Agent) Writes(_ wire.Nothing, reply *wire.TraceReply) error {
	writes, lost, err := a.trace.read()
	*reply = wire.TraceReply{Writes: writes, Lost: lost, Outcome: outcome(err)}
	return nil
}

// canary is an attribute that may be written at any time: whether RCU hurries.
// It is 0 and stays so.
const canary = "kernel/rcu_expedited"

func (t *tracer) read() ([]wire.SysWrite, int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return nil, 0, t.err
	}
	if err := os.WriteFile("/sys/"+canary, []byte("0"), 0); err != nil {
		return nil, 0, err
	}
	text, err := os.ReadFile(tracing + "trace")
	if err != nil {
		return nil, 0, err
	}
	writes, err := parseTrace(string(text), t.userBuffer)
	if err != nil {
		return nil, 0, err
	}
	theirs := slices.DeleteFunc(slices.Clone(writes), isCanary)
	if len(theirs) == len(writes) {
		return nil, 0, errors.New("the trace of writes is blind: it did not see the agent's own")
	}
	lost, err := overrun()
	return theirs, lost, err
}

func isCanary(w wire.SysWrite) bool {
	return w.Path == canary && w.Data == "0" && w.PID == os.Getpid()
}

// An entry begins a line. What was written may hold line feeds, so that an
// entry may go on for several lines.
var (
	entry = regexp.MustCompile(`(?m)^ *(.+)-(\d+) +\( *([-\d]+)\) \[\d+\] \S+ +([\d.]+): syswrite: \(.*?\) comm=`)
	field = regexp.MustCompile(`(?s)^comm="(.*?)" n0=(.*?) type=(\d+) size=(\d+) data=(.*)$`)
)

// parseTrace reads the file "trace" (Documentation/trace/ftrace.rst).
func parseTrace(text string, userBuffer uint64) ([]wire.SysWrite, error) {
	places := entry.FindAllStringSubmatchIndex(text, -1)
	writes := make([]wire.SysWrite, 0, len(places))
	for i, place := range places {
		end := len(text)
		if i+1 < len(places) {
			end = places[i+1][0]
		}
		head := entry.FindStringSubmatch(text[place[0]:place[1]])
		w, err := parseEntry(head, text[place[1]-len("comm="):end], userBuffer)
		if err != nil {
			return nil, err
		}
		writes = append(writes, w)
	}
	return writes, nil
}

func parseEntry(head []string, body string, userBuffer uint64) (wire.SysWrite, error) {
	f := field.FindStringSubmatch(body)
	if f == nil {
		return wire.SysWrite{}, fmt.Errorf("cannot read the trace's entry %q", body)
	}
	seconds, err1 := strconv.ParseFloat(head[4], 64)
	tid, err2 := strconv.Atoi(head[2])
	size, err3 := strconv.Atoi(f[4])
	w := wire.SysWrite{
		Time: time.Duration(seconds * float64(time.Second)), Command: f[1],
		TID: tid, PID: processOf(tid, head[3]), Path: tracePath(f[2]), Size: size,
	}
	if data, ok := strings.CutPrefix(f[5], `"`); ok && f[3] == strconv.FormatUint(userBuffer, 10) {
		w.Data, w.Known = data[:min(size, max(0, strings.LastIndex(data, `"`)))], true
	}
	return w, errors.Join(err1, err2, err3)
}

// processOf gives the process of a thread. The trace learns it when the thread
// is next switched out, so that it may have dashes for one that still runs.
func processOf(tid int, traced string) int {
	if pid, err := strconv.Atoi(traced); err == nil {
		return pid
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		var pid int
		if _, err := fmt.Sscanf(line, "Tgid: %d", &pid); err == nil {
			return pid
		}
	}
	return 0
}

// tracePath makes a path of `"name" n1="parent" n2="/" n3="/"…`.
func tracePath(names string) string {
	var parts []string
	for level, name := range strings.Split(names, " n") {
		if level > 0 {
			_, name, _ = strings.Cut(name, "=")
		}
		if name = strings.Trim(name, `"`); name == "/" {
			break
		}
		parts = append(parts, name)
	}
	slices.Reverse(parts)
	return strings.Join(parts, "/")
}

// overrun counts the entries that were overwritten.
func overrun() (int, error) {
	stats, err := filepath.Glob(tracing + "per_cpu/*/stats")
	if err != nil {
		return 0, err
	}
	var lost int
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(text)) {
			var n int
			if _, err := fmt.Sscanf(line, "overrun: %d", &n); err == nil {
				lost += n
			}
		}
	}
	return lost, nil
}
