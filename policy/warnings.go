package policy

import (
	"fmt"
	"strings"

	"vfio-hotplug/internal/pci"
)

// mostWarnings is how many warnings of one kind there are at most.
const mostWarnings = 10

// Warnings gives one line for each thing in the rules that is right, but
// perhaps not meant. Of each kind it gives the first, and counts the others.
func (p *Policy) Warnings() []string {
	var slots, kernels, shadowed []string
	for i, r := range p.list() {
		slots = append(slots, r.otherSlots(&r.match)...)
		if r.Action != Bind {
			continue
		}
		kernels = append(kernels, r.kernelDriver()...)
		if by := p.shadow(i); by != nil {
			shadowed = append(shadowed, r.shadowedBy(by))
		}
	}
	var lines []string
	for _, kind := range [][]string{slots, kernels, shadowed, p.unguardedWarnings()} {
		lines = append(lines, first(kind)...)
	}
	return lines
}

func first(lines []string) []string {
	if len(lines) <= mostWarnings {
		return lines
	}
	return append(lines[:mostWarnings:mostWarnings], fmt.Sprintf("and %d more of this kind", len(lines)-mostWarnings))
}

// kernelDriver finds a rule that binds to the driver that the kernel gives drives
// to anyway: a guard would send each new one through pci-stub on its way there.
func (r *Rule) kernelDriver() []string {
	if r.Driver != "nvme" {
		return nil
	}
	return []string{fmt.Sprintf("%s has driver = \"nvme\", so drives are guarded and taken for the kernel's own driver: to leave them to it, say action = \"leave\" instead", r)}
}

func (r *Rule) shadowedBy(other *Rule) string {
	if other.Action == Leave {
		return fmt.Sprintf("%s takes nothing: %s is about all of its devices, and one that leaves wins", r, other)
	}
	return fmt.Sprintf("%s takes nothing: %s stands before it and is about all of its devices", r, other)
}

// otherSlots finds the names of slots that were perhaps meant as a range, for the
// kernel itself makes names such as 1-1, but not many; or as the address that lspci
// and the kernel call a slot.
func (r *Rule) otherSlots(m *match) []string {
	var lines []string
	for _, s := range m.slot {
		from, to, found := strings.Cut(s.glob, "-")
		_, ok1 := slotNumber(from)
		_, ok2 := slotNumber(to)
		if found && ok1 && ok2 {
			lines = append(lines, fmt.Sprintf("%s has slot = %q, which is the one slot of that name: a range is written %q", r, s.glob, from+".."+to))
		}
		if isAddress(s.glob) || isAddress(s.glob+".0") {
			lines = append(lines, fmt.Sprintf("%s has slot = %q, which is the slot of that name: the address of a device is the key address", r, s.glob))
		}
	}
	if m.not != nil {
		lines = append(lines, r.otherSlots(m.not)...)
	}
	return lines
}

func isAddress(s string) bool {
	_, err := pci.ParseAddress(s)
	return err == nil
}

// unguardedWarnings gives one line for each rule that a guard by IDs cannot do
// justice to. There is none where the mode needs no IDs.
func (p *Policy) unguardedWarnings() []string {
	if mode := p.GuardMode(); mode != GuardAuto && mode != GuardClaim && mode != GuardStub {
		return nil
	}
	var lines []string
	for _, u := range p.Guarded().Unguarded {
		lines = append(lines, u.Why)
	}
	return lines
}
