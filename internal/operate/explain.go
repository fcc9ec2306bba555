package operate

import (
	"context"
	"errors"
	"io/fs"
	"slices"

	"vfio-hotplug/internal/inuse"
	"vfio-hotplug/internal/ledger"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/policy"
)

// Judgement is why a device is taken or not.
type Judgement struct {
	Device   pci.Device
	Steps    []policy.Step   // rule by rule
	Decision policy.Decision // what the rules come to
	Driver   string          // the driver that it is to have, "" for none
	Entry    *ledger.Entry   // what we did to it, nil for nothing
	Node     string
	Checks   []Check
	Outcome  Outcome // what Take would end in now, if the kernel does its part
	Reason   string
	Next     string // the next command to type, "" for none
}

// Explain goes through the rules and every check that Take would go through,
// and does not stop at the first veto. It changes nothing: it loads no module
// and opens nothing exclusively. What this process may not read is said in the
// checks, and is no error.
func (o *Operator) Explain(ctx context.Context, r Request) (Judgement, error) {
	j := &judge{Operator: o, Request: r, dry: true}
	if err := j.decide(); err != nil {
		return Judgement{Device: j.facts}, err
	}
	var unread []Check
	entry, err := j.entry()
	if errors.Is(err, fs.ErrPermission) {
		unread = append(unread, notRead("ledger", err))
	} else if err != nil {
		return Judgement{Device: j.facts}, err
	}
	err = j.readOverride()
	if errors.Is(err, fs.ErrPermission) {
		unread = append(unread, notRead(overrideCheck, err))
	} else if err != nil {
		return Judgement{Device: j.facts}, err
	}
	say := Judgement{
		Device:   j.facts,
		Steps:    j.asked.Explain(&j.facts),
		Decision: j.decision,
		Driver:   j.driver,
		Entry:    entry,
		Node:     o.node(r.Device),
	}
	if j.decision.Verdict == policy.Bind {
		say.Checks = j.all(ctx, entry, unread)
	}
	j.conclude(&say)
	if slices.ContainsFunc(say.Checks, func(c Check) bool { return c.Unread }) {
		say.Reason += "; but not all could be seen"
		say.Next = "sudo vfio-hotplug explain " + j.facts.Address.String()
	}
	return say, nil
}

// readOverride reads driver_override, unless an operation on the device is
// under way: on older kernels the read would wait for its end, unkillably.
func (j *judge) readOverride() error {
	lock, err := j.Ledger.Lock(j.facts.Address)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	j.facts.Override, err = j.Device.Override()
	return err
}

// overrideCheck is the name of checkOverride.
const overrideCheck = "driver_override"

// notRead is a check for which this process lacks the right.
func notRead(name string, err error) Check {
	c := pass(name, "not read: %v: be root to see it", err)
	c.Unread = true
	return c
}

// all gives the answers of every check that applies to the device as it is:
// first that of releases by hand, last what could not be read.
func (j *judge) all(ctx context.Context, entry *ledger.Entry, unread []Check) []Check {
	checks := []Check{j.released()}
	if !slices.ContainsFunc(unread, func(c Check) bool { return c.Name == overrideCheck }) {
		checks = append(checks, j.checkOverride(j.facts.Override, entry))
	}
	checks = append(checks, j.checkGroup(), j.checkDriver(ctx, false))
	if from := j.facts.Driver; from != "" && from != j.driver {
		checks = append(checks, j.checkTakeover(from), j.checkVFs(), j.checkUnused(ctx))
	}
	return append(checks, unread...)
}

// released is checkReleased, where its file can be read.
func (j *judge) released() Check {
	if _, err := j.Ledger.Released(j.facts.Address, j.Device.Identity()); errors.Is(err, fs.ErrPermission) {
		return notRead(releasedCheck, err)
	}
	return j.checkReleased()
}

// checkUnused looks once, without keeping others out.
func (j *judge) checkUnused(ctx context.Context) Check {
	const name = "in use"
	report, hold, err := j.Uses.Look(ctx, j.Device, j.facts, inuse.How{Blank: j.decision.Takeover == policy.Blank})
	var unsettled *inuse.NotSettledError
	switch {
	case errors.As(err, &unsettled):
		return veto(name, "wait a moment and ask again", "%v", err)
	case err != nil:
		return veto(name, "be root", "it cannot be checked: %v", err)
	}
	defer hold.Close()
	if report.Veto() {
		return veto(name, report.Remedy(), "%s", report)
	}
	return pass(name, "%s", report)
}

// conclude says what it all comes to, in the order in which Take goes.
func (j *judge) conclude(say *Judgement) {
	say.Outcome, say.Reason = Left, j.decision.Reason
	if j.decision.Verdict != policy.Bind {
		return
	}
	if c := say.Checks[0]; c.Veto { // released by hand
		say.Reason, say.Next = c.Text, c.Remedy
		return
	}
	if j.facts.Driver == j.driver {
		say.Outcome, say.Reason = Already, "it is on "+j.driver+" already"
		if say.Entry != nil {
			say.Next = "vfio-hotplug release " + j.facts.Address.String()
		}
		return
	}
	if reason, remedy := j.takenAway(say.Entry, j.facts.Driver); reason != "" {
		say.Reason, say.Next = reason, remedy
		return
	}
	for _, c := range say.Checks {
		if c.Veto {
			say.Outcome, say.Reason, say.Next = Refused, c.Name+": "+c.Text, c.Remedy
			return
		}
	}
	say.Outcome, say.Next = Direct, "vfio-hotplug bind "+j.facts.Address.String()
	if j.facts.Driver != "" {
		say.Outcome = Taken
	}
}
