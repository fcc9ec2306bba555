package policy

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"vfio-hotplug/internal/pci"
)

// guardPlans are plans of which most go by IDs alone, so that patterns are often
// exact.
func (w world) guardPlans() []plan {
	plans := make([]plan, 1+w.IntN(5))
	for i := range plans {
		p := w.plan(fmt.Sprint("rule ", i))
		if w.IntN(4) > 0 {
			p.terms, p.not = []term{w.class()}, nil
			if w.IntN(2) == 0 {
				p.terms = append(p.terms, pick(w, []func() term{w.vendor, w.device, w.subVendor, w.subDevice})())
			}
		}
		plans[i] = p
	}
	return plans
}

func (w world) subDevice() term {
	return of(w, "subsystem_device", worldIDs, pci.ID.String, func(id pci.ID, d pci.Device) bool { return d.SubDevice == id })
}

// like gives d IDs that match p, where p names any.
func (w world) like(p pci.Pattern, d pci.Device) pci.Device {
	for _, id := range []struct {
		want uint32
		of   *pci.ID
	}{{p.Vendor, &d.Vendor}, {p.Device, &d.DeviceID}, {p.SubVendor, &d.SubVendor}, {p.SubDevice, &d.SubDevice}} {
		if id.want != pci.AnyID {
			*id.of = pci.ID(id.want)
		}
	}
	d.Class = pci.Class(uint32(d.Class)&^p.ClassMask | p.Class)
	return d
}

func (w world) guardDrive() pci.Device {
	d := w.drive()
	d.SubDevice = pick(w, worldIDs)
	return d
}

// What a guard hands to the driver of an exact pattern, the policy wants there.
func TestPropertyExactPatternsAreDecidedByTheirIDs(t *testing.T) {
	exact, inexact := 0, 0
	rounds(t, func(t *testing.T, w world) {
		text := write(w.Rand, w.guardPlans())
		p := parse(t, text)
		for _, g := range p.Guarded().Patterns {
			if g.Exact != (g.Why == "") || strings.Contains(g.Why, "\n") {
				t.Errorf("exact %v, because %q\n%s", g.Exact, g.Why, text)
			}
			if !g.Exact {
				inexact++
				continue
			}
			exact++
			for range 10 {
				d := w.like(g.Pattern, w.guardDrive())
				if !g.Pattern.Matches(d.IDs()) {
					t.Fatalf("%s does not match %+v", g.Pattern, d)
				}
				if d.VMD && !g.VMD {
					continue
				}
				got := p.Decide(&d)
				if got.Verdict != Bind || guardDriver(got) != g.Driver || !got.Rule.Guard {
					t.Errorf("%s for %s is exact, but %+v\n%+v\n%s", g.Pattern, g.Driver, got, d, text)
				}
				if got.Driver == Auto && !g.Auto {
					t.Errorf("%s does not say auto, but %+v\n%+v\n%s", g.Pattern, got, d, text)
				}
			}
		}
	})
	t.Log("exact:", exact, "not:", inexact)
	if (exact < 500 || inexact < 500) && os.Getenv("POLICY_SEED") == "" {
		t.Errorf("the worlds hardly ever lead to one of them: %d exact, %d not", exact, inexact)
	}
}

// No device that the policy wants a guard for slips past its patterns.
func TestPropertyEveryGuardedDeviceHasItsPattern(t *testing.T) {
	guarded := 0
	rounds(t, func(t *testing.T, w world) {
		text := write(w.Rand, w.guardPlans())
		p := parse(t, text)
		g := p.Guarded()
		for range 10 {
			d := w.guardDrive()
			decision := p.Decide(&d)
			if decision.Verdict != Bind || !decision.Rule.Guard {
				continue
			}
			guarded++
			if !g.knows(decision, d.IDs()) {
				t.Errorf("no pattern for %+v\n%+v\n%s\n%s", decision, d, tell(g), text)
			}
		}
	})
	if guarded < 500 && os.Getenv("POLICY_SEED") == "" {
		t.Errorf("the worlds hardly ever lead to a guarded device: %d times", guarded)
	}
}

// knows reports whether there is a pattern for what was decided, or a word on why
// there is none.
func (g Guarded) knows(decision Decision, ids pci.IDs) bool {
	for _, u := range g.Unguarded {
		if u.Rule == decision.Rule {
			return true
		}
	}
	for _, p := range g.Patterns {
		if p.Driver == guardDriver(decision) && p.Pattern.Matches(ids) {
			return true
		}
	}
	return false
}

func guardDriver(decision Decision) string {
	if decision.Driver == "auto" {
		return "vfio-pci"
	}
	return decision.Driver
}

// Only rules that go by nothing of a device's IDs are without a pattern.
func TestPropertyUnguardedRulesNameNoIDs(t *testing.T) {
	rounds(t, func(t *testing.T, w world) {
		plans := w.guardPlans()
		var want []string
		for _, p := range plans {
			named := slices.ContainsFunc(p.terms, func(t term) bool {
				key, _, _ := strings.Cut(t.text, " ")
				return slices.Contains([]string{"class", "vendor", "device", "subsystem_vendor", "subsystem_device"}, key)
			})
			if !p.leave && p.guard && !named {
				want = append(want, p.name)
			}
		}
		var got []string
		for _, u := range parse(t, write(w.Rand, plans)).Guarded().Unguarded {
			got = append(got, u.Rule.Name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// A pattern that another covers costs the guard a write, and the kernel answers
// EEXIST to it.
func TestPropertyNoPatternCoversAnotherOfItsDriver(t *testing.T) {
	rounds(t, func(t *testing.T, w world) {
		text := write(w.Rand, w.guardPlans())
		patterns := parse(t, text).Guarded().Patterns
		for i, p := range patterns {
			for j, q := range patterns {
				if i != j && p.Driver == q.Driver && p.Pattern.Covers(q.Pattern) {
					t.Errorf("%s covers %s\n%s", p.Pattern, q.Pattern, text)
				}
			}
		}
	})
}
