package operate

import (
	"context"
	"errors"
	"fmt"

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
// and opens nothing exclusively.
func (o *Operator) Explain(ctx context.Context, r Request) (Judgement, error) {
	j := &judge{Operator: o, Request: r, dry: true}
	if err := j.decide(pci.AllFacts); err != nil {
		return Judgement{Device: j.facts}, err
	}
	entry, err := j.entry()
	if err != nil {
		return Judgement{Device: j.facts}, err
	}
	say := Judgement{
		Device:   j.facts,
		Steps:    j.Policy.Explain(&j.facts),
		Decision: j.decision,
		Driver:   j.driver,
		Entry:    entry,
		Node:     o.node(r.Device),
	}
	if j.decision.Verdict == policy.Bind {
		say.Checks = j.all(ctx)
	}
	j.conclude(&say)
	return say, nil
}

// all gives the answers of every check that applies to the device as it is.
func (j *judge) all(ctx context.Context) []Check {
	checks := []Check{j.checkReleased()}
	if j.facts.Driver == j.driver {
		return append(checks, j.checkGroup())
	}
	checks = append(checks, j.checkOverride(j.facts.Override), j.checkGroup(), j.checkDriver(ctx, false))
	if j.facts.Driver == "" {
		return checks
	}
	return append(checks, j.checkTakeover(j.facts.Driver), j.checkUnused(ctx))
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

// conclude says what it all comes to.
func (j *judge) conclude(say *Judgement) {
	say.Outcome, say.Reason = Left, j.decision.Reason
	if j.decision.Verdict != policy.Bind {
		return
	}
	for _, c := range say.Checks {
		if !c.Veto {
			continue
		}
		say.Outcome, say.Reason, say.Next = Refused, c.Name+": "+c.Text, c.Remedy
		if c.Name == releasedCheck {
			say.Outcome = Left
		}
		return
	}
	switch from := j.facts.Driver; from {
	case j.driver:
		say.Outcome, say.Reason = Already, "it is on "+j.driver
		if say.Entry != nil {
			say.Next = fmt.Sprintf("vfio-hotplug release %s", j.facts.Address)
		}
	case "":
		say.Outcome, say.Next = Direct, fmt.Sprintf("vfio-hotplug bind %s", j.facts.Address)
	default:
		say.Outcome, say.Next = Taken, fmt.Sprintf("vfio-hotplug bind %s", j.facts.Address)
	}
}
