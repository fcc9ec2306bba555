package vmtest

import (
	"encoding/json"
	"os"
)

// AccountVar is the environment variable that names a file to which every guest
// adds a line about its start: an Entry in JSON. Several processes may add to one
// file.
const AccountVar = "VMTEST_ACCOUNT"

// An Entry is one line of the account.
type Entry struct {
	What    string  // one of the constants below
	Guest   string  // such as "6.1 native" or "trixie 6.12 native"
	Seconds float64 `json:",omitempty"` // that it took
	Fault   string  `json:",omitempty"` // what went wrong
}

// What an Entry is about.
const (
	Booted        = "booted"         // a guest was booted
	Restored      = "restored"       // a guest was restored
	Saved         = "saved"          // a guest was booted to be restored many times
	ThrownAway    = "thrown away"    // a snapshot was damaged
	EmulatorFault = "emulator fault" // something failed by a fault of QEMU's emulation, and was tried again
)

// Account adds an entry about the guest.
func (g *Guest) Account(e Entry) {
	e.Guest = g.cfg.name()
	account(os.Getenv(AccountVar), e)
}

func account(path string, e Entry) {
	if path == "" {
		return
	}
	line, err := json.Marshal(e)
	if err == nil {
		err = appendLine(path, line)
	}
	if err != nil {
		warn("nobody will read in %s that a guest was %s: %v", path, e.What, err)
	}
}

// appendLine adds a line in one write, so that no other comes in between.
func appendLine(path string, line []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(append(line, '\n')); err != nil {
		return err
	}
	return f.Close()
}

// name is what people call guests of this kind.
func (c Config) name() string {
	name := c.Kernel.Name + " " + c.Hotplug.String()
	if c.System != nil {
		name = c.System.Suite + " " + name
	}
	return name
}
