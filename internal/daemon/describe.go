package daemon

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"vfio-hotplug/internal/control"
	"vfio-hotplug/internal/ledger"
	"vfio-hotplug/internal/operate"
	"vfio-hotplug/internal/pci"
)

// Describe puts into the socket's words what a survey found and, where there
// is one, the last result about the device.
func Describe(line operate.Line, last operate.Result) control.Device {
	out := control.Device{
		Address: line.Address.String(),
		Slot:    line.Slot,
		ID:      fmt.Sprintf("%04x:%04x", uint16(line.Vendor), uint16(line.DeviceID)),
		Class:   line.Class.String(),
		Driver:  line.Driver,
		Node:    line.Node,
		Reason:  line.Decision.Reason,
		Barred:  line.Barred,
	}
	if line.IOMMUGroup != pci.NoGroup {
		out.IOMMUGroup = &line.IOMMUGroup
	}
	if line.NUMANode != pci.NoNode {
		out.NUMANode = &line.NUMANode
	}
	if line.Decision.Rule != nil {
		out.Rule = line.Decision.Rule.Name
	}
	// What was taken or released is told by the ledger, which outlives the
	// daemon; the rest only by the last result.
	switch {
	case line.Leaving.Veto:
		out.Outcome, out.Reason, out.Remedy = string(operate.Stuck), line.Leaving.Text, line.Leaving.Remedy
		since := line.LeavingSince
		if last.Outcome == operate.Stuck {
			since = operate.Earlier(since, last.Since)
		}
		if !since.IsZero() {
			out.Reason += fmt.Sprintf(", for %v so far", time.Since(since).Round(time.Second))
		}
	case line.Entry != nil && line.Entry.Stage != ledger.Taken:
		out.Outcome, out.Reason = string(line.Entry.Stage), "an operation is under way, or was cut short"
	case line.Entry != nil && line.Entry.Driver != line.Driver:
		out.Outcome, out.Reason = string(operate.Left), "it was bound to "+line.Entry.Driver+", and somebody else has changed that since"
	case line.Entry != nil:
		out.Outcome, out.LatencyUsec = line.Entry.Outcome, line.Entry.Latency.Microseconds()
	case line.Released:
		out.Outcome, out.Reason = string(operate.Released), "released by hand"
	case last.Outcome.Bound() && last.Driver != line.Driver:
		// Somebody else has changed it since.
	case last.Outcome != "":
		out.Outcome, out.Reason, out.Remedy = string(last.Outcome), cmp.Or(last.Reason, out.Reason), last.Remedy
	}
	return out
}

// DescribeResult puts a result into the socket's words.
func DescribeResult(r operate.Result) control.Device {
	out := control.Device{
		Address:     r.Address.String(),
		Slot:        r.Slot,
		Driver:      r.Driver,
		From:        r.From,
		Node:        r.Node,
		Rule:        r.Rule,
		Outcome:     string(r.Outcome),
		Reason:      r.Reason,
		Remedy:      r.Remedy,
		LatencyUsec: r.Latency.Microseconds(),
	}
	if r.Group != pci.NoGroup {
		out.IOMMUGroup = &r.Group
	}
	for _, other := range r.Along {
		out.Along = append(out.Along, other.Address.String())
	}
	return out
}

// Faults gives the lines of an error that a status tells beside its devices.
func Faults(err error) []string {
	if err == nil {
		return nil
	}
	return strings.Split(err.Error(), "\n")
}
