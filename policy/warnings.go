package policy

import (
	"fmt"
	"strings"
)

// Warnings gives one line for each thing in the rules that is right, but
// perhaps not meant.
func (p *Policy) Warnings() []string {
	var lines []string
	for _, r := range p.list() {
		lines = append(lines, r.likeRanges(&r.match)...)
	}
	return append(lines, p.unguardedWarnings()...)
}

// likeRanges finds the names of slots that were perhaps meant as a range: the
// kernel itself makes names such as 1-1, but not many.
func (r *Rule) likeRanges(m *match) []string {
	var lines []string
	for _, s := range m.slot {
		from, to, found := strings.Cut(s.glob, "-")
		_, ok1 := slotNumber(from)
		_, ok2 := slotNumber(to)
		if found && ok1 && ok2 {
			lines = append(lines, fmt.Sprintf("%s has slot = %q, which is the one slot of that name: a range is written %q", r, s.glob, from+".."+to))
		}
	}
	if m.not != nil {
		lines = append(lines, r.likeRanges(m.not)...)
	}
	return lines
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
