package operate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

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
	Next     string // what to do next, "" for nothing
}

// Explain goes through the rules and every check that Take would go through,
// and does not stop at the first veto. It changes nothing: it loads no module
// and opens nothing exclusively. What this process may not read is said in the
// checks, and is no error.
func (o *Operator) Explain(ctx context.Context, r Request) (Judgement, error) {
	j := &judge{Operator: o, Request: r, dry: true}
	seen, err := j.see(ctx)
	if err != nil {
		return Judgement{Device: j.facts}, err
	}
	if c := seen.leaving; c.Veto {
		return Judgement{Device: j.facts, Steps: j.asked.Explain(&j.facts), Decision: j.decision, Driver: j.driver,
			Checks: []Check{c}, Outcome: Stuck, Reason: c.Text, Next: c.Remedy}, nil
	}
	say := Judgement{
		Device:   j.facts,
		Steps:    j.asked.Explain(&j.facts),
		Decision: j.decision,
		Driver:   j.driver,
		Entry:    seen.entry,
		Node:     o.node(r.Device),
	}
	if j.decision.Verdict == policy.Bind {
		say.Checks = j.all(ctx, seen.entry, seen.unread)
	}
	j.conclude(&say)
	if i := slices.IndexFunc(say.Checks, func(c Check) bool { return c.Unread }); i >= 0 {
		say.Reason += "; but not all could be seen"
		say.Next = say.Checks[i].Remedy
	}
	return say, nil
}

// AsRoot says how to give a command that may look at everything. Who is root and
// yet may not is in a container or the like.
func AsRoot(command string) string {
	if os.Geteuid() == 0 {
		return "outside of a container, with all capabilities of root: " + command
	}
	return "sudo " + command
}

// seen is what Explain has read of a device besides its facts.
type seen struct {
	leaving Check
	entry   *ledger.Entry
	unread  []Check
}

// see reads the device while nobody changes it. Where an operation on it goes on
// for longer than explainWait, it is read as it is just then, but for
// driver_override: on older kernels that read would wait for the operation's end,
// unkillably.
func (j *judge) see(ctx context.Context) (s seen, err error) {
	wait, cancel := context.WithTimeout(ctx, explainWait)
	defer cancel()
	unlock, locked := j.Ledger.ReadingWait(wait, j.Device.Address())
	if locked == nil {
		defer unlock()
	}
	if err := ctx.Err(); err != nil {
		return s, err
	}
	if err := j.decide(); err != nil {
		return s, err
	}
	if s.leaving = j.checkLeaving(j.Device); s.leaving.Veto {
		return s, nil
	}
	s.entry, err = j.entry()
	if errors.Is(err, fs.ErrPermission) {
		s.unread = append(s.unread, j.notRead("ledger", err))
	} else if err != nil {
		return s, err
	}
	err = locked
	if err == nil {
		j.facts.Override, err = j.Device.Override()
	}
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, ledger.ErrLocked) {
		s.unread = append(s.unread, j.notRead(overrideCheck, err))
	} else if err != nil {
		return s, err
	}
	return s, nil
}

// explainWait is how long Explain waits for an operation on the device; the rest
// of what it says waits for nobody.
const explainWait = 2 * time.Second

// readOverride reads driver_override, unless an operation on the device is under
// way; then the error is ledger.ErrLocked.
func (j *judge) readOverride() error {
	unlock, err := j.Ledger.Reading(j.facts.Address)
	if err != nil {
		return err
	}
	defer unlock()
	j.facts.Override, err = j.Device.Override()
	return err
}

// overrideCheck is the name of checkOverride.
const overrideCheck = "driver_override"

// notRead is a check for which this process lacks the right, or at which
// somebody else is.
func (j *judge) notRead(name string, err error) Check {
	again := "vfio-hotplug explain " + j.facts.Address.String()
	c := Check{Name: name, Unread: true}
	if locked, ok := errors.AsType[*ledger.LockedError](err); ok {
		c.Text, c.Remedy = fmt.Sprintf("not read: %v", locked), again
		return c
	}
	c.Text, c.Remedy = fmt.Sprintf("not read: %v", err), AsRoot(again)
	if os.Geteuid() != 0 {
		c.Text += ": be root to see it"
	}
	return c
}

// all gives the answers of every check that applies to the device as it is:
// first that of releases by hand, last what could not be read.
func (j *judge) all(ctx context.Context, entry *ledger.Entry, unread []Check) []Check {
	checks := []Check{j.released()}
	if !slices.ContainsFunc(unread, func(c Check) bool { return c.Name == overrideCheck }) {
		checks = append(checks, j.checkOverride(j.facts.Override, entry))
	}
	checks = append(checks, j.checkGroup())
	checks = append(checks, j.checkAlong(ctx)...)
	checks = append(checks, j.checkDriver(ctx, false))
	if from := j.facts.Driver; from != "" && from != j.driver {
		checks = append(checks, j.checkTakeover(from), j.checkVFs(), j.checkUnused(ctx))
	}
	return append(checks, unread...)
}

// released is checkReleased, where its file can be read.
func (j *judge) released() Check {
	if _, err := j.Ledger.Released(j.facts.Address, j.Device.Identity()); errors.Is(err, fs.ErrPermission) {
		return j.notRead(releasedCheck, err)
	}
	return j.checkReleased()
}

// checkUnused looks once, without keeping others out.
func (j *judge) checkUnused(ctx context.Context) Check {
	report, hold, err := j.Uses.Look(ctx, j.Device, j.facts, inuse.How{Blank: j.decision.Takeover == policy.Blank, All: true})
	var unsettled *inuse.NotSettledError
	switch {
	case errors.As(err, &unsettled):
		return veto(inUse, "wait a moment and ask again", "%v", err)
	case err != nil:
		return veto(inUse, "be root", "it cannot be checked: %v", err)
	}
	defer hold.Close()
	if report.Veto() {
		return veto(inUse, report.Remedy(), "%s", report)
	}
	return pass(inUse, "%s", report)
}

// conclude says what it all comes to, in the order in which Take goes.
func (j *judge) conclude(say *Judgement) {
	say.Outcome, say.Reason = Left, j.decision.Reason
	switch j.decision.Verdict {
	case policy.None:
		say.Next = j.unnamed(say)
		return
	case policy.Leave:
		if r, ok := j.undecided(); ok {
			say.Outcome, say.Next = r.Outcome, r.Remedy
		}
		return
	}
	if c := say.Checks[0]; c.Veto { // released by hand
		say.Reason, say.Next = c.Text, c.Remedy
		return
	}
	if j.facts.Driver == j.driver {
		say.Outcome, say.Reason = Already, "it is on "+j.driver+" already"
		if j.inTheWay != "" {
			say.Reason += "; but no program can open it while " + j.inTheWay + " is in its IOMMU group"
		}
		if say.Entry != nil {
			say.Next = "vfio-hotplug release " + j.facts.Address.String()
		}
		return
	}
	if reason, remedy := j.takenAway(say.Entry, j.facts.Driver); reason != "" {
		say.Reason, say.Next = reason, remedy
		return
	}
	if refused(say) {
		return
	}
	say.Outcome, say.Next = Direct, "vfio-hotplug bind "+j.facts.Address.String()
	if j.facts.Driver != "" {
		say.Outcome = Taken
	}
}

// unnamed says what to do with a device that no rule names; "" for a bridge,
// which nothing binds.
func (j *judge) unnamed(say *Judgement) string {
	address := j.facts.Address.String()
	hidden := func(s policy.Step) bool { return s.Key == "vmd" }
	barred := j.barredByVMD()
	switch {
	case j.facts.Bridge():
		return ""
	case say.Entry != nil && say.Entry.Stage == ledger.Taken: // by hand, or under an earlier policy
		return "vfio-hotplug release " + address
	case barred.Veto: // a rule or a hand would be refused
		return "it cannot be taken as it is: " + barred.Text + ": " + barred.Remedy
	case slices.ContainsFunc(say.Steps, hidden):
		return "to have it taken, say vmd = true in the rule, or for once: vfio-hotplug bind " + address
	}
	return "to have it taken, write a rule for it in /etc/vfio-hotplug/policy.toml: see vfio-hotplug-policy(5); or for once: vfio-hotplug bind " + address
}

// barredByVMD is the veto of a drive that shares its group with its VMD
// controller, whatever the rules may say of it.
func (j *judge) barredByVMD() Check {
	if !j.facts.VMD || j.facts.IOMMUGroup == pci.NoGroup {
		return Check{}
	}
	asked := *j
	asked.driver = policy.VFIO
	return asked.checkGroup()
}

// refused concludes from the first veto, and names the others, so that nobody
// takes the first for the only one.
func refused(say *Judgement) bool {
	var vetoes []string
	for _, c := range say.Checks {
		switch {
		case !c.Veto:
			continue
		case len(vetoes) == 0:
			say.Outcome, say.Reason, say.Next = Refused, c.Name+": "+c.Text, c.Remedy
		}
		vetoes = append(vetoes, c.Name)
	}
	if len(vetoes) > 1 {
		say.Reason += "; and so says: " + strings.Join(vetoes[1:], ", ")
	}
	return len(vetoes) > 0
}
