package operate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"vfio-hotplug/internal/bind"
	"vfio-hotplug/internal/inuse"
	"vfio-hotplug/internal/ledger"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
	"vfio-hotplug/policy"
)

// companion is a device that is taken along with another of its IOMMU group:
// all or none.
//
// Its lock is held before anything about it is decided. The ledger has an entry
// of every one before the first of them is changed, and each names the others,
// so that what was cut short is one transaction for whoever comes next. All are
// under their driver before the first of them is entered as taken.
type companion struct {
	taking
	now  string      // the driver that it had when it was looked at
	hold *inuse.Hold // keeps others out until it has been taken
}

// bringAlong takes those along that are in the way of the device, right before
// its own first change. With ok the device may follow. Else the operation has
// ended with the result; or it is to begin again, with more locks, as restart
// says.
func (t *taking) bringAlong(ctx context.Context) (result Result, ok bool) {
	wanted, err := t.company()
	if err != nil {
		return t.refused(ctx, veto("ledger", "", "%v", err)), false
	}
	if len(wanted) == 0 {
		return Result{}, true
	}
	if !t.haveLocked(wanted) {
		return t.startOver(wanted), false
	}
	var fresh []*companion
	for _, a := range wanted {
		c, result, ok := t.invite(ctx, a)
		if c != nil {
			t.companions = append(t.companions, c)
			fresh = append(fresh, c)
		}
		if !ok {
			return result, false
		}
	}
	if t.Policy() != t.asked { // reloaded while they were waited for
		return t.startOver(nil), false
	}
	if err := t.recordAll(ctx); err != nil {
		return t.unrecorded(ctx, err), false
	}
	for _, c := range fresh {
		if err := c.come(ctx); err != nil {
			return t.failure(ctx, fmt.Errorf("take %s along: %w", c.Device.Address(), err)), false
		}
	}
	return Result{}, true
}

// company lists, in order, who has to come along and has not yet: those in the
// way, and those with which an earlier operation was cut short.
func (t *taking) company() ([]pci.Address, error) {
	wanted := slices.Clone(t.along)
	for _, a := range t.beside {
		entry, found, err := t.Ledger.Get(a)
		if err != nil {
			return nil, err
		}
		if found && entry.Stage == ledger.Taking {
			wanted = append(wanted, a)
		}
	}
	wanted = slices.DeleteFunc(wanted, func(a pci.Address) bool {
		return slices.ContainsFunc(t.companions, func(c *companion) bool { return c.Device.Address() == a })
	})
	slices.SortFunc(wanted, pci.Address.Compare)
	return slices.Compact(wanted), nil
}

func (t *taking) haveLocked(all []pci.Address) bool {
	return !slices.ContainsFunc(all, func(a pci.Address) bool { return t.locks[a] == nil })
}

// startOver has the operation begin again with the locks of these devices too.
// What has been changed so far stands in the ledger, as after a kill.
func (t *taking) startOver(with []pci.Address) Result {
	t.restart = true
	t.beside = append(t.beside, with...)
	return Result{}
}

// invite goes through all that there is to check about a companion, and keeps
// hold of it. It is nil where none is there any more. Without ok the operation
// has ended with the result.
func (t *taking) invite(ctx context.Context, a pci.Address) (*companion, Result, bool) {
	dev, err := t.FS.Open(a)
	if sysfs.Gone(err) || errors.Is(err, sysfs.ErrReplaced) {
		return nil, Result{}, true
	}
	if err != nil {
		return nil, t.failure(ctx, err), false
	}
	r := Request{Device: dev, Policy: t.Policy, Arrival: t.Arrival, Guard: t.Guard, Slow: t.Slow}
	if r.Arrival == HotAdd {
		r.Arrival = Found
	}
	c := &companion{taking: taking{judge: judge{Operator: t.Operator, Request: r}, lock: t.locks[a]}}
	check, err := c.look(ctx)
	switch {
	case err != nil && ctx.Err() == nil && c.vanished():
		dev.Close()
		return nil, Result{}, true
	case err != nil:
		return c, t.failure(ctx, err), false
	case c.facts.IOMMUGroup != t.facts.IOMMUGroup: // another device, in its place
		_ = c.hold.Close()
		_ = dev.Close()
		return nil, Result{}, true
	case check.Veto:
		return c, t.refused(ctx, veto(groupCheck, check.Remedy, "%s (%s) cannot be taken along: %s: %s", a, orNone(c.now), check.Name, check.Text)), false
	}
	if (c.now == "" || c.now == c.driver) && (c.prior == nil || c.prior.Stage != ledger.Taking) {
		dev.Close()
		return nil, Result{}, true // it is in nobody's way any more
	}
	if reason := c.tooEarly(c.now); reason != "" {
		return c, t.giveUp(ctx, Result{Outcome: Left, Check: tooEarlyCheck, Reason: fmt.Sprintf("%s is to be taken along, and %s", a, reason)}), false
	}
	return c, Result{}, true
}

// look does for a companion what a Take of its own would do before the first
// change.
func (c *companion) look(ctx context.Context) (Check, error) {
	err := c.decide()
	if err != nil {
		return Check{}, err
	}
	if c.prior, err = c.entry(); c.dry && errors.Is(err, fs.ErrPermission) {
		return Check{}, err
	} else if err != nil {
		return veto("ledger", "", "%v", err), nil
	}
	if c.now, err = c.Device.Driver(); err != nil {
		return Check{}, err
	}
	if check := c.checkLeaving(c.Device); check.Veto {
		return check, nil
	}
	override, err := c.overrideNow()
	if err != nil {
		return Check{}, err
	}
	c.remember(c.now, override)
	for _, check := range []func() Check{
		c.checkNamed,
		c.checkEarlier,
		func() Check { return c.checkOverride(override, c.prior) },
		func() Check { return c.checkDriver(ctx, !c.dry) },
	} {
		if found := check(); found.Veto {
			return found, nil
		}
	}
	if c.now == "" || c.now == c.driver || c.tooEarly(c.now) != "" {
		return Check{}, nil
	}
	c.back.Driver, c.back.New = c.now, false
	if c.origin.New {
		c.origin = c.back
	}
	for _, found := range []Check{c.checkTakeover(c.now), c.checkVFs()} {
		if found.Veto {
			return found, nil
		}
	}
	if c.dry {
		return c.checkUnused(ctx), nil
	}
	var check Check
	c.hold, check, err = c.holdUnused(ctx, c.now)
	return check, err
}

// overrideNow reads driver_override; in a dry run only where that cannot wait.
func (c *companion) overrideNow() (string, error) {
	if !c.dry {
		return c.override()
	}
	err := c.readOverride()
	return c.facts.Override, err
}

// checkAlong says of each that would be taken along whether it can be, as far as
// that can be seen without keeping others out.
func (j *judge) checkAlong(ctx context.Context) []Check {
	if j.facts.Driver == j.driver {
		return nil // nobody is taken along any more
	}
	var all []Check
	for _, a := range j.along {
		dev, err := j.FS.Open(a)
		if err != nil {
			continue // gone, or about to be
		}
		all = append(all, j.mayCome(ctx, dev))
		dev.Close()
	}
	return all
}

func (j *judge) mayCome(ctx context.Context, dev *sysfs.Device) Check {
	name := "along " + dev.Address().String()
	c := &companion{taking: taking{judge: judge{Operator: j.Operator, Request: Request{Device: dev, Policy: j.Policy}, dry: true}}}
	check, err := c.look(ctx)
	switch {
	case errors.Is(err, fs.ErrPermission) || errors.Is(err, ledger.ErrLocked):
		return j.notRead(name, err)
	case err != nil:
		return veto(name, "", "%v", err)
	case check.Veto:
		return veto(name, check.Remedy, "%s: %s", check.Name, check.Text)
	}
	return pass(name, "it would be taken from %s", orNone(c.now))
}

// checkNamed: what no rule gives to vfio is not taken along, not even by hand.
func (j *judge) checkNamed() Check {
	const name = "rules"
	d := j.decision
	if r, ok := j.undecided(); ok {
		return veto(name, r.Remedy, "%s", r.Reason)
	}
	if d.Verdict != policy.Bind || d.Rule == nil || !policy.IsVFIO(j.driver) {
		return veto(name, "have a rule give it to vfio too", "no rule gives it to vfio")
	}
	return pass(name, "%s", d.Reason)
}

// checkEarlier: what a hand gave back stays back, what somebody else has given
// to another driver is not fought over, and what is under way on the device is
// ended by its own next look.
func (c *companion) checkEarlier() Check {
	if c.Arrival == ByHand {
		return pass(releasedCheck, "asked for by hand")
	}
	if check := c.checkReleased(); check.Veto {
		return check
	}
	const name = "earlier operation"
	if reason, remedy := c.takenAway(c.prior, c.now); reason != "" {
		return veto(name, remedy, "%s", reason)
	}
	if c.prior != nil && c.prior.Stage != ledger.Taking && c.prior.Stage != ledger.Taken {
		return veto(name, "vfio-hotplug status", "it is not ended: %s", c.prior.Stage)
	}
	return pass(name, "none")
}

// recordAll writes down what there was of each, before the first change to any.
func (t *taking) recordAll(ctx context.Context) error {
	all := []pci.Address{t.Device.Address()}
	for _, c := range t.companions {
		all = append(all, c.Device.Address())
	}
	for _, one := range append([]*taking{t}, takings(t.companions)...) {
		one.party = slices.DeleteFunc(slices.Clone(all), func(a pci.Address) bool { return a == one.Device.Address() })
		if err := one.record(ctx); err != nil {
			return err
		}
	}
	return nil
}

func takings(companions []*companion) []*taking {
	all := make([]*taking, len(companions))
	for i, c := range companions {
		all[i] = &c.taking
	}
	return all
}

// come brings a companion to its driver. One that is unplugged on the way is in
// nobody's way any more.
func (c *companion) come(ctx context.Context) error {
	err := c.step(ctx)
	if errors.Is(err, bind.ErrGone) || err != nil && c.vanished() {
		return nil
	}
	return err
}

func (c *companion) step(ctx context.Context) error {
	switch c.now {
	case c.driver: // cut short at its end
		return c.Device.SetOverride(c.driver)
	case "": // cut short in the middle
		now, err := bind.Offer(c.Device, c.driver)
		if err == nil && now == "" {
			now, err = bind.Insist(c.Device, c.driver)
		}
		if err == nil && now != c.driver {
			err = fmt.Errorf("%s took it: %w", now, bind.ErrChanged)
		}
		return err
	}
	switch check, err := c.shows(ctx, c.now); { // what has begun since, and claims nothing
	case err != nil:
		return err
	case check.Veto:
		return fmt.Errorf("%s: %s", check.Name, check.Text)
	}
	files := append(c.hold.Files(), c.lock.File())
	return c.patiently("unbind from "+c.now, func() error {
		return bind.Take(ctx, c.Device, c.driver, c.back, files...)
	})
}

// together ends the operation for those that were taken along as it has ended
// for the device itself: taken, or put back.
func (t *taking) together(ctx context.Context, result Result) Result {
	for _, c := range t.companions {
		switch {
		case result.Outcome == "": // interrupted: the ledger has it
		case c.vanished():
			c.gone()
		case result.Outcome.Bound():
			from := c.now
			if from == c.driver {
				from = ""
			}
			result.Along = append(result.Along, c.told(c.bound(ctx, from)))
		default:
			back := c.giveUp(ctx, Result{Outcome: result.Outcome})
			switch {
			case back.Outcome == "":
				result = back
			case back.Reason != "": // it could not be put back
				result.Outcome, result.Reason = Failed, result.Reason+"; "+c.Device.Address().String()+strings.TrimPrefix(back.Reason, ";")
				result.Remedy = cmp.Or(back.Remedy, result.Remedy)
			}
		}
	}
	return result
}
