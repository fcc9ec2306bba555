package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"vfio-hotplug/internal/inuse"
	"vfio-hotplug/internal/journal"
	"vfio-hotplug/internal/ledger"
	"vfio-hotplug/internal/operate"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
	"vfio-hotplug/policy"
)

// The hidden commands that the udev rules run through IMPORT{program}, for one
// device and for one node. They are apart from the other commands, since udev
// runs them for many devices at once.
const (
	udevCommand = "udev"
	nodeCommand = "udev-node"
)

// settling is how long a device that has just been bound may take until the
// ledger says what became of it: the kernel tells udev and the daemon at once.
const settling = 5 * time.Second

// runUdev takes what the command is about and, for a test, the root directory.
func runUdev(command string, args []string) int {
	h := udevHelper{machine{"/"}, os.Stdout, journal.Fields}
	switch len(args) {
	case 1:
	case 2:
		h.root, h.format = args[1], journal.Lines
	default:
		return finish(usageError{errors.New("want the address of a device")})
	}
	if command == nodeCommand {
		return finish(h.tellNode(args[0]))
	}
	return finish(h.tell(args[0]))
}

// udevHelper tells udev about one device. udev drops what its programs write to
// standard error, so what a person is to know goes to the journal by format.
type udevHelper struct {
	machine
	out    io.Writer
	format journal.Format
}

// tell prints properties of a device, one KEY="value" a line. Of one that
// has a driver it says what the ledger knows, of one that has none what the
// policy wants. It changes no device.
func (h udevHelper) tell(address string) error {
	a, err := pci.ParseAddress(address)
	if err != nil {
		return err
	}
	root, err := sysfs.OpenRoot(h.path("sys"))
	if err != nil {
		return err
	}
	defer root.Close()
	device, err := sysfs.New(root, nil).Open(a)
	if err != nil {
		return err
	}
	defer device.Close()
	driver, err := device.Driver()
	if err != nil {
		return err
	}
	if driver == "" {
		return h.tellColdplug(root, device)
	}
	return h.tellTaken(device, driver)
}

// tellTaken says what was done to a device.
func (h udevHelper) tellTaken(device *sysfs.Device, driver string) error {
	giveUp := time.Now().Add(settling)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		entry, found, err := ledger.Look(h.path("run/vfio-hotplug"), device.Address())
		if err != nil || !found || entry.Identity != device.Identity() || entry.Driver != driver {
			return err
		}
		if entry.Stage == ledger.Taking && time.Now().Before(giveUp) {
			time.Sleep(pause)
			continue
		}
		return h.properties("DRIVER", entry.Driver, "RULE", entry.Rule, "OUTCOME", entry.Outcome)
	}
}

// tellColdplug says whether a device is to be kept from drivers until the
// daemon has looked at it.
func (h udevHelper) tellColdplug(root sysfs.Dir, device *sysfs.Device) error {
	if !h.asksAtBoot(device) {
		return nil // the early scan has decided, or the daemon does, or nobody
	}
	p, err := h.policy()
	if err != nil {
		return h.sayOnce(err)
	}
	facts, err := device.ReadMost(pci.NoFacts, p.Needs())
	if err != nil {
		return err
	}
	decision := p.Decide(&facts)
	if decision.Verdict != policy.Bind || operate.ReadFirst(p, decision, &facts, inuse.New(root, h.root)) != "" {
		return nil
	}
	return h.properties("COLDPLUG", "keep", "RULE", decision.Rule.Name)
}

// sayOnce tells that the policy has faults, and ends the coldplug, so that no
// other device's helper tells it again.
func (h udevHelper) sayOnce(fault error) error {
	if first, err := h.endColdplug(); err == nil && !first {
		return toldError{fault}
	}
	log, flush := openLog(slog.LevelInfo, h.format)
	defer flush()
	log.Error("the policy has faults, so nothing is kept for it at boot: "+strings.ReplaceAll(fault.Error(), "\n", "; ")+"; next: vfio-hotplug check",
		journal.MessagePolicyBad.Attr())
	return toldError{fault}
}

// properties prints pairs of names and values; those without a value are left
// out. udev takes off one pair of quotes, and ends a value at the end of a line.
func (h udevHelper) properties(pairs ...string) error {
	var text strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		if value := pairs[i+1]; value != "" {
			fmt.Fprintf(&text, "VFIO_HOTPLUG_%s=\"%s\"\n", pairs[i], strings.Map(printable, value))
		}
	}
	_, err := io.WriteString(h.out, text.String())
	return err
}

func printable(r rune) rune {
	if r < ' ' || r == 0x7f {
		return ' '
	}
	return r
}
