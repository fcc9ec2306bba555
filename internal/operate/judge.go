package operate

import (
	"context"
	"fmt"
	"strings"

	"vfio-hotplug/internal/iommu"
	"vfio-hotplug/internal/kmod"
	"vfio-hotplug/internal/ledger"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
	"vfio-hotplug/policy"
)

// Check is the answer of one check about one device.
type Check struct {
	Name   string `json:"name"`
	Veto   bool   `json:"veto"`             // the device must not be taken
	Text   string `json:"text"`             // what was found
	Remedy string `json:"remedy,omitempty"` // what would lift the veto
	Unread bool   `json:"unread,omitempty"` // what it is about could not be seen
}

func pass(name, format string, a ...any) Check {
	return Check{Name: name, Text: fmt.Sprintf(format, a...)}
}

func veto(name, remedy, format string, a ...any) Check {
	return Check{Name: name, Veto: true, Text: fmt.Sprintf(format, a...), Remedy: remedy}
}

// judge is one device before the policy and the checks. It changes nothing
// but that it may load the driver's module.
type judge struct {
	*Operator
	Request
	facts    pci.Device
	asked    *policy.Policy
	decision policy.Decision
	driver   string // the driver it is to have, "auto" resolved
	dry      bool   // load no module
	// inTheWay names those that stand in the way in the device's IOMMU group, as
	// checkGroup has found it; along are those of them that may be taken along,
	// if that is all of them.
	inTheWay string
	along    []pci.Address
}

// decide reads the device and asks the policy; a hand may add to the answer.
func (j *judge) decide() error {
	var err error
	j.asked = j.Policy()
	want := j.asked.Needs()
	if j.dry {
		want = pci.AllFacts &^ (pci.FactOverride | pci.FactGroup)
	}
	if j.facts, err = j.read(j.Device, want); err != nil {
		return err
	}
	j.decision = j.asked.Decide(&j.facts)
	if j.decision.Verdict == policy.None && j.facts.Bridge() {
		j.decision.Reason = "a bridge is never bound"
	}
	if j.Arrival == ByHand {
		j.obey()
	}
	if j.decision.Verdict != policy.Bind {
		return nil
	}
	j.driver, err = j.resolve(j.decision.Driver)
	return err
}

// read reads a device's group, and for a policy what can be read of the rest. The
// slots below a port that is itself being added come with its driver, after those
// devices have been announced, and before drivers may match them.
func (o *Operator) read(dev *sysfs.Device, want pci.Facts) (pci.Device, error) {
	facts, err := dev.ReadMost(pci.FactGroup, want)
	if err == nil && want.Has(pci.FactSlot) && facts.Slot == "" && facts.Unknown(pci.FactSlot) == nil &&
		o.Added != nil && !o.Added(dev.Address()) {
		facts.Unread = append(facts.Unread, pci.Unread{Fact: pci.FactSlot, Why: "the kernel is still adding it: " + sysfs.ErrSoon.Error(), Soon: true})
	}
	return facts, err
}

// undecided is the Refused result where the policy has no answer, for want of a
// fact; ok is false where it has one.
func (j *judge) undecided() (r Result, ok bool) {
	if j.decision.Unread == nil {
		return Result{}, false
	}
	return Result{Outcome: Refused, Reason: j.decision.Reason, Remedy: j.knowing()}, true
}

// knowing says how to come to an answer where the policy has none.
func (j *judge) knowing() string {
	again := "vfio-hotplug explain " + j.facts.Address.String()
	elsewhere := fmt.Sprintf("name the device in %s by its address, slot or IDs instead", j.decision.Rule)
	switch u := j.decision.Unread; {
	case u.Denied && j.dry:
		return AsRoot(again)
	case u.Denied:
		return "let vfio-hotplug have CAP_SYS_ADMIN, or " + elsewhere
	case u.Soon && j.dry:
		return "wait a moment and ask again: " + again
	}
	return elsewhere
}

// obey lets a hand take what no rule names, and choose driver and takeover. A
// rule that says leave stands above it.
func (j *judge) obey() {
	d := &j.decision
	if d.Verdict == policy.None && !j.facts.Bridge() {
		d.Verdict, d.Driver, d.Takeover = policy.Bind, policy.VFIO, policy.Blank
		d.Reason = "asked for by hand"
	}
	if j.Hand.Driver != "" {
		d.Driver = j.Hand.Driver
	}
	if j.Hand.Takeover != nil {
		d.Takeover = *j.Hand.Takeover
	}
}

// resolve turns "auto" into the name of a driver.
func (j *judge) resolve(driver string) (string, error) {
	if driver != policy.Auto {
		return driver, nil
	}
	aliases, err := j.Aliases()
	if err != nil {
		return "", fmt.Errorf("find the vfio driver for %s: %w", j.facts.Address, err)
	}
	defer aliases.Close()
	module, err := kmod.Variant(aliases, j.facts.IDs())
	if err != nil || module == kmod.GenericVFIO {
		return policy.VFIO, err
	}
	return j.driverOf(module)
}

// driverOf gives the name of the PCI driver in a module, which is loaded for
// it: the name is known only then.
func (j *judge) driverOf(module string) (string, error) {
	read := func() string {
		names, _ := j.FS.Root().List("module/" + module + "/drivers")
		for _, name := range names {
			if driver, ok := strings.CutPrefix(name, "pci:"); ok {
				return driver
			}
		}
		return ""
	}
	if driver := read(); driver != "" {
		return driver, nil
	}
	if j.dry {
		return module, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), j.Limit.Load)
	defer cancel()
	if err := j.Load(ctx, module); err != nil {
		return "", err
	}
	if driver := read(); driver != "" {
		return driver, nil
	}
	return "", fmt.Errorf("module %s brought no PCI driver: name the driver in the rule instead of \"auto\"", module)
}

const releasedCheck = "released by hand"

// checkReleased: what a hand gave back stays back until it is plugged again, or
// the machine boots.
func (j *judge) checkReleased() Check {
	const name = releasedCheck
	released, err := j.Ledger.Released(j.facts.Address, j.Device.Identity())
	switch {
	case err != nil:
		return veto(name, "remove the file that it names", "%v", err)
	case released:
		return veto(name, "vfio-hotplug bind "+j.facts.Address.String(), "it was released by hand and stays so until it is plugged again or the machine boots")
	}
	return pass(name, "no")
}

// checkOverride: an override that is neither what we want nor left by an
// operation of ours is somebody's decision.
func (j *judge) checkOverride(override string, prior *ledger.Entry) Check {
	const name = "driver_override"
	switch {
	case override == "":
		return pass(name, "not set")
	case override == j.driver:
		return pass(name, "%s", override)
	case override == nobody:
		return pass(name, "our own, from an arming of the guard that was cut short")
	case override == Unoffered:
		return pass(name, "our own, from udev's coldplug")
	case prior != nil && (override == prior.Driver || override == prior.Before.Driver || override == prior.Before.Override):
		return pass(name, "%s, from an earlier operation of ours", override)
	case j.Arrival == ByHand:
		return pass(name, "%s, replaced by hand", override)
	}
	return veto(name, "driverctl unset-override, or vfio-hotplug bind "+j.facts.Address.String(),
		"it is %s, which somebody else has set", override)
}

// checkVFs: vfio-pci refuses a physical function whose virtual functions are
// in use, and to unbind it first would end them.
func (j *judge) checkVFs() Check {
	const name = "virtual functions"
	facts, err := j.Device.Read(pci.FactVFs)
	switch {
	case err != nil:
		return veto(name, "", "they cannot be counted: %v", err)
	case facts.VFs > 0:
		return veto(name, fmt.Sprintf("if nobody uses them: echo 0 > /sys/bus/pci/devices/%s/sriov_numvfs", j.facts.Address),
			"%d enabled", facts.VFs)
	}
	return pass(name, "none")
}

// takenAway says that somebody else has changed a device since we took it; ""
// where nobody has.
func (j *judge) takenAway(entry *ledger.Entry, now string) (reason, remedy string) {
	if entry == nil || entry.Stage != ledger.Taken || entry.Driver == now {
		return "", ""
	}
	return givenAway(j.facts.Address, entry.Driver, now)
}

// givenAway says that somebody else has given a device to another driver.
func givenAway(a pci.Address, ours, now string) (reason, remedy string) {
	return fmt.Sprintf("it was bound to %s, and somebody else has since given it to %s", ours, orNone(now)),
		"vfio-hotplug bind " + a.String()
}

// node is the node through which a program drives the device, "" for none.
func (o *Operator) node(dev *sysfs.Device) string {
	node, ok, err := iommu.ReadNode(dev.Dir(), o.Dev)
	if err != nil || !ok || !node.Exists {
		return ""
	}
	return node.Path
}

// checkDriver: an override that names no registered driver would leave the
// device with none. The kernel loads nothing for us.
func (j *judge) checkDriver(ctx context.Context, load bool) Check {
	const name = "driver"
	there, err := j.FS.HasDriver(j.driver)
	if err == nil && !there && load {
		ctx, cancel := context.WithTimeout(ctx, j.Limit.Load)
		defer cancel()
		err = j.patiently("load module "+j.driver, func() error { return j.Load(ctx, j.driver) })
		if err == nil {
			there, err = j.FS.HasDriver(j.driver)
		}
	}
	switch {
	case err != nil:
		return veto(name, "is the name right? If so: modprobe "+j.driver, "%s cannot be loaded: %v", j.driver, err)
	case !there && load:
		return veto(name, "is the name right? If so: modprobe "+j.driver, "module %s was loaded, but registered no such driver", j.driver)
	case !there:
		return pass(name, "%s is not loaded; it would be", j.driver)
	}
	return pass(name, "%s is loaded", j.driver)
}

// checkTakeover: may this rule take a device from another driver at all?
func (j *judge) checkTakeover(from string) Check {
	const name = "takeover"
	if j.decision.Takeover == policy.Never {
		return veto(name, "say takeover = \"blank\" or \"idle\" in the rule, or plug the drive again",
			"%s has the drive, and the rule says takeover = \"never\"", from)
	}
	return pass(name, "%s", j.decision.Takeover)
}

// entry is the ledger's entry for this very device, nil for none. One that
// cannot be believed is a reason to keep the hands off.
func (j *judge) entry() (*ledger.Entry, error) {
	entry, found, err := j.Ledger.Get(j.Device.Address())
	if err != nil {
		return nil, err
	}
	if !found || entry.Identity != j.Device.Identity() {
		return nil, nil
	}
	return &entry, nil
}
