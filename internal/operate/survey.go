package operate

import (
	"errors"
	"fmt"
	"time"

	"vfio-hotplug/internal/ledger"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
	"vfio-hotplug/policy"
)

// Line is one device in a survey.
type Line struct {
	pci.Device
	Decision policy.Decision
	// Entry is what we did to it, nil for nothing.
	Entry *ledger.Entry
	// Released says that a hand gave it back.
	Released bool
	// Barred names those of its IOMMU group that keep programs from it although
	// vfio has it; "" for nobody.
	Barred string
	// Node is the node of a user-space driver, "" for none.
	Node string
	// Leaving is why the kernel does not come to the end of taking its driver
	// from it; no veto where it is not at that.
	Leaving Check
	// LeavingSince is when it began with that, zero where it is not known.
	LeavingSince time.Time
}

// Named reports whether the policy names the device or we have changed it.
func (l Line) Named() bool {
	return l.Decision.Rule != nil || l.Entry != nil || l.Released
}

// Survey reads every PCI function and what the policy says of it. It changes
// nothing and takes no lock of the kernel's, so it does not hang on a device
// that does; driver_override is therefore not read. The error joins what could
// not be read; the lines are good all the same.
func (o *Operator) Survey(p *policy.Policy) ([]Line, error) {
	addresses, err := o.FS.Devices()
	if err != nil {
		return nil, err
	}
	lines := make([]Line, 0, len(addresses))
	var faults []error
	for _, a := range addresses {
		line, err := o.survey(a, p)
		if sysfs.Gone(err) || errors.Is(err, sysfs.ErrReplaced) {
			continue
		}
		lines = append(lines, line)
		faults = append(faults, err)
	}
	return lines, errors.Join(faults...)
}

func (o *Operator) survey(a pci.Address, p *policy.Policy) (Line, error) {
	dev, err := o.FS.Open(a)
	if err != nil {
		return Line{}, err
	}
	defer dev.Close()
	j := judge{Operator: o, Request: Request{Device: dev}}
	line := Line{Device: pci.Device{Address: a}}
	line.Device, err = o.read(dev, surveyed|p.Needs())
	if err != nil {
		return line, err
	}
	line.Decision = p.Decide(&line.Device)
	line.Node = o.node(dev)
	if line.Node != "" || policy.IsVFIO(line.Driver) {
		standing, err := o.standing(line.Device)
		if err != nil {
			return line, err
		}
		if standing.Open {
			line.Barred = standing.InTheWay
		}
	}
	if line.Driver == "" {
		line.Leaving = o.checkLeaving(dev)
	}
	if line.Entry, err = j.entry(); err != nil {
		return line, err
	}
	if line.Leaving.Veto {
		from := ""
		if leavesNVMe(dev) {
			from = "nvme"
		}
		line.LeavingSince = unbindBegan(line.Entry, from)
	}
	line.Released, err = o.Ledger.Released(a, dev.Identity())
	return line, errors.Join(err, unshown(line.Device))
}

// unshown names what of a line could not be read, though a survey shows it.
func unshown(d pci.Device) error {
	var faults []error
	for _, u := range d.Unread {
		if surveyed.Has(u.Fact) && !u.Soon {
			faults = append(faults, fmt.Errorf("%s: its slot or NUMA node cannot be read: %s", d.Address, u.Why))
		}
	}
	return errors.Join(faults...)
}

const surveyed = pci.FactSlot | pci.FactNUMA
