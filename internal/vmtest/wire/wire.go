// Package wire is what a guest's agent and its host say to each other:
// JSON-RPC (net/rpc/jsonrpc) over a serial port.
//
// All times are the guest's CLOCK_MONOTONIC. A Timeout of zero means not to
// wait at all, except where a field says otherwise.
package wire

import (
	"io/fs"
	"syscall"
	"time"
)

// Ready is the line with which the agent begins: the port is raw from then on.
const Ready = "vmtest agent ready"

// Service is the name that the agent's methods are registered under.
const Service = "Agent"

// Nothing is the argument or the result of a method that has none.
type Nothing struct{}

// The mailbox is a card at this PCI address, with an archive of files for the guest
// in its memory region 2.
const (
	MailboxAddress = "0000:00:02.0"
	MailboxSize    = 64 << 20 // bytes
)

// Unpack asks for the archive in the mailbox to be put into the root file
// system.
type Unpack struct {
	Size int // of the archive in bytes
}

// Resume is for a guest that was restored.
type Resume struct {
	Time time.Time
	Seed []byte // for its random numbers
}

// An Outcome tells whether a system call went well, errno included.
type Outcome struct {
	Op    string        `json:",omitempty"`
	Path  string        `json:",omitempty"`
	Errno syscall.Errno `json:",omitempty"`
	Text  string        `json:",omitempty"` // of an error without errno
}

// Command is a program to run.
type Command struct {
	Argv    []string
	Env     []string      `json:",omitempty"` // besides PATH and HOME
	Stdin   []byte        `json:",omitempty"`
	Timeout time.Duration `json:",omitempty"` // then it is killed; zero: never
}

// Finished is how a program ended.
type Finished struct {
	Code           int    // exit code, -1 if a signal ended it
	Signal         string `json:",omitempty"`
	TimedOut       bool   `json:",omitempty"`
	Stuck          bool   `json:",omitempty"` // killed, but it did not die: it sits in the kernel
	Stdout, Stderr []byte
}

// Background is a program to start.
type Background struct {
	Argv   []string
	Env    []string `json:",omitempty"`
	Notify bool     `json:",omitempty"` // give it a NOTIFY_SOCKET (sd_notify(3))
}

// Started names a program in the background.
type Started struct{ Process, PID int }

// A Line is one that a program in the background wrote.
type Line struct {
	Stream string // "stdout", "stderr" or "notify"
	Time   time.Duration
	Text   string // without the line feed
}

// Lines asks for what a program wrote, from line Since on. It waits for a line
// that matches the regular expression Match, or without one for any.
type Lines struct {
	Process int
	Since   int
	Match   string `json:",omitempty"`
	Timeout time.Duration
}

// LinesReply has the lines up to the one that matched, the last if Found.
type LinesReply struct {
	Lines []Line
	Found bool
	Ended *Finished `json:",omitempty"` // when the program is over
}

// Kill sends a signal to a program in the background.
type Kill struct {
	Process int
	Signal  syscall.Signal
}

// Wait waits for a program in the background.
type Wait struct {
	Process int
	Timeout time.Duration
}

// Path names a file.
type Path struct{ Path string }

// Contents is what a file holds.
type Contents struct {
	Outcome Outcome
	Data    []byte
}

// Exchange is a message to a unix socket, of which the answer ends with a byte.
type Exchange struct {
	Socket  string
	Message []byte
	End     byte
	Timeout time.Duration
}

// Write is a write to a file, in one call.
type Write struct {
	Path    string
	Data    []byte
	Create  bool        `json:",omitempty"`
	Mode    fs.FileMode `json:",omitempty"`
	Timeout time.Duration
}

// Info is what stat(2) and readlink(2) say, links not followed.
type Info struct {
	Outcome  Outcome
	Mode     fs.FileMode
	Size     int64
	UID, GID uint32
	Target   string `json:",omitempty"` // of a link
}

// Names are the entries of a directory, or what a pattern matches.
type Names struct {
	Outcome Outcome
	Names   []string
}

// Module names a module, and its parameters for the load.
type Module struct {
	Name   string
	Params string `json:",omitempty"`
}

// A Uevent is one that the kernel sent.
type Uevent struct {
	Time    time.Duration
	Action  string
	Devpath string            // below /sys
	Env     map[string]string // SUBSYSTEM, DRIVER, SEQNUM, …
}

// Match says which uevents are meant; what is empty matches all.
type Match struct {
	Action    string            `json:",omitempty"`
	Subsystem string            `json:",omitempty"`
	Devpath   string            `json:",omitempty"` // a pattern (path.Match) for its last element
	Env       map[string]string `json:",omitempty"`
}

// Uevents asks for events from number Since on that match. It waits until
// there are Count of them; zero asks for what is there.
type Uevents struct {
	Since   int
	Match   Match
	Count   int
	Timeout time.Duration
}

// UeventsReply has the events found, and the number after the last looked at.
type UeventsReply struct {
	Events []Uevent
	Next   int
	Lost   int // times that the agent's socket overflowed
}

// TraceReply has the writes that were seen since the trace began.
type TraceReply struct {
	Outcome Outcome
	Writes  []SysWrite
	Lost    int // entries that the kernel had no room for
}

// A SysWrite is a write below /sys that a process began, be it refused in the
// end.
type SysWrite struct {
	Time    time.Duration
	Command string // the first 15 bytes of its name
	TID     int    // the thread
	PID     int
	Own     bool   `json:",omitempty"` // the process is the agent
	Path    string // below /sys, such as "bus/pci/drivers_probe"
	Data    string // if Known
	Known   bool   // false: too much, or the kernel could not read it just then
	Size    int    // how many bytes it wrote
}
