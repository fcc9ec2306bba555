package policy

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"vfio-hotplug/internal/pci"
)

// The properties hold for random policies and devices from a world so small that
// rules and devices often meet. What a rule should do is said a second time here,
// without the code under test: a term is the text of one key of a match, and
// what it means.
type term struct {
	text  string
	holds func(pci.Device) bool
}

type plan struct {
	name   string
	terms  []term
	not    []term
	leave  bool
	vmd    bool
	guard  bool
	with   bool
	driver string
}

func (p plan) matches(d pci.Device) bool {
	all := func(terms []term) bool {
		return !slices.ContainsFunc(terms, func(t term) bool { return !t.holds(d) })
	}
	return all(p.terms) && (len(p.not) == 0 || !all(p.not))
}

// expect says what plans should decide on d, from the manual.
func expect(plans []plan, d pci.Device) (Verdict, string) {
	for _, p := range plans {
		if p.leave && p.matches(d) {
			return Leave, p.name
		}
	}
	for _, p := range plans {
		if !p.leave && p.matches(d) && (p.vmd || !d.VMD) {
			if d.Class>>16 == 6 {
				return Leave, p.name
			}
			return Bind, p.name
		}
	}
	return None, ""
}

// write writes the plans as a policy. The order of keys, and how tables are
// written, is left to chance.
func write(r *rand.Rand, plans []plan) string {
	var b strings.Builder
	for _, p := range plans {
		b.WriteString("[[rule]]\n" + p.write(r) + "\n")
	}
	return b.String()
}

func (p plan) write(r *rand.Rand) string {
	terms := texts(r, p.terms)
	if len(p.not) > 0 {
		terms = append(terms, "not = { "+strings.Join(texts(r, p.not), ", ")+" }")
		shuffle(r, terms)
	}
	keys := []string{fmt.Sprintf("name = %q", p.name)}
	if p.leave {
		keys = append(keys, `action = "leave"`)
	} else {
		keys = append(keys, fmt.Sprintf("driver = %q", p.driver), fmt.Sprintf("vmd = %v", p.vmd), fmt.Sprintf("guard = %v", p.guard))
		if p.with {
			keys = append(keys, `group = "with"`)
		}
	}
	switch r.IntN(3) {
	case 0:
		keys = append(keys, "match = { "+strings.Join(terms, ", ")+" }")
	case 1:
		keys = append(keys, "match."+strings.Join(terms, "\nmatch."))
	default:
		shuffle(r, keys)
		return strings.Join(keys, "\n") + "\n[rule.match]\n" + strings.Join(terms, "\n")
	}
	shuffle(r, keys)
	return strings.Join(keys, "\n")
}

func texts(r *rand.Rand, terms []term) []string {
	words := make([]string, len(terms))
	for i, t := range terms {
		words[i] = t.text
	}
	shuffle(r, words)
	return words
}

func shuffle[T any](r *rand.Rand, s []T) {
	r.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
}

// world makes random plans and devices.
type world struct{ *rand.Rand }

func (w world) plans(most int) []plan {
	plans := make([]plan, w.IntN(most+1))
	for i := range plans {
		plans[i] = w.plan(fmt.Sprint("rule ", i))
	}
	return plans
}

func (w world) plan(name string) plan {
	p := plan{
		name:   name,
		terms:  w.terms(1 + w.IntN(2)),
		leave:  w.IntN(4) == 0,
		vmd:    w.IntN(2) == 0,
		guard:  w.IntN(4) > 0,
		driver: pick(w, []string{"vfio-pci", "auto", "uio_pci_generic"}),
	}
	p.with = p.driver != "uio_pci_generic" && w.IntN(2) == 0
	if w.IntN(3) == 0 {
		p.not = w.terms(1 + w.IntN(2))
	}
	return p
}

// terms gives n terms, each about another key.
func (w world) terms(n int) []term {
	kinds := []func() term{w.class, w.vendor, w.device, w.subVendor, w.address, w.slot, w.slotRange, w.behind, w.physfn, w.node, w.serial}
	shuffle(w.Rand, kinds)
	var terms []term
	for _, kind := range kinds {
		t := kind()
		key, _, _ := strings.Cut(t.text, " ")
		if !slices.ContainsFunc(terms, func(other term) bool { return strings.HasPrefix(other.text, key+" ") }) {
			terms = append(terms, t)
		}
		if len(terms) == n {
			break
		}
	}
	return terms
}

// of gives a term on one or two values, as a scalar or a list.
func of[T any](w world, key string, values []T, text func(T) string, holds func(T, pci.Device) bool) term {
	first, second := pick(w, values), pick(w, values)
	switch w.IntN(3) {
	case 0:
		return term{key + " = " + text(first), func(d pci.Device) bool { return holds(first, d) }}
	case 1:
		return term{key + " = [" + text(first) + "]", func(d pci.Device) bool { return holds(first, d) }}
	}
	return term{
		key + " = [" + text(first) + ", " + text(second) + "]",
		func(d pci.Device) bool { return holds(first, d) || holds(second, d) },
	}
}

func pick[T any](w world, s []T) T { return s[w.IntN(len(s))] }

var (
	worldClasses   = []pci.Class{0x010802, 0x010802, 0x010601, 0x020000, 0x060400}
	worldIDs       = []pci.ID{0x144d, 0x8086, 0x0000}
	worldAddresses = []pci.Address{{}, {Bus: 1}, {Bus: 1, Function: 1}, {Domain: 0x10000, Bus: 1}}
	worldSlots     = []string{"", "1", "2", "12", "1-1"}
	worldNodes     = []int{pci.NoNode, 0, 1}
	worldSerials   = []uint64{0, 0x0011223344556677, 0xffffffffffffffff}
)

func (w world) drive() pci.Device {
	d := pci.Device{
		Address:   pick(w, worldAddresses),
		Vendor:    pick(w, worldIDs),
		DeviceID:  pick(w, worldIDs),
		SubVendor: pick(w, worldIDs),
		Class:     pick(w, worldClasses),
		Slot:      pick(w, worldSlots),
		NUMANode:  pick(w, worldNodes),
		DSN:       pick(w, worldSerials),
		VMD:       w.IntN(4) == 0,
		VirtFn:    w.IntN(2) == 0,
	}
	for range w.IntN(3) {
		d.Upstream = append(d.Upstream, pick(w, worldAddresses))
	}
	if d.VirtFn {
		d.PhysFn = pick(w, worldAddresses)
	}
	return d
}

func quoted[T fmt.Stringer](v T) string { return strconv.Quote(v.String()) }

func (w world) class() term {
	names := map[string]func(pci.Class) bool{
		`"nvme"`:              func(c pci.Class) bool { return c == 0x010802 },
		`"storage"`:           func(c pci.Class) bool { return c>>16 == 1 },
		`0x020000`:            func(c pci.Class) bool { return c == 0x020000 },
		`"0106"`:              func(c pci.Class) bool { return c>>8 == 0x0106 },
		`"0x000000/0x00ff00"`: func(c pci.Class) bool { return c>>8&0xff == 0 },
	}
	keys := []string{`"nvme"`, `"storage"`, `0x020000`, `"0106"`, `"0x000000/0x00ff00"`}
	return of(w, "class", keys, func(s string) string { return s }, func(s string, d pci.Device) bool { return names[s](d.Class) })
}

func (w world) vendor() term {
	return of(w, "vendor", worldIDs, pci.ID.String, func(id pci.ID, d pci.Device) bool { return d.Vendor == id })
}

func (w world) device() term {
	return of(w, "device", worldIDs, pci.ID.String, func(id pci.ID, d pci.Device) bool { return d.DeviceID == id })
}

func (w world) subVendor() term {
	return of(w, "subsystem_vendor", worldIDs, pci.ID.String, func(id pci.ID, d pci.Device) bool { return d.SubVendor == id })
}

func (w world) address() term {
	patterns := map[string]func(pci.Address) bool{
		"0000:*":        func(a pci.Address) bool { return a.Domain == 0 },
		"01:00.?":       func(a pci.Address) bool { return a.Domain == 0 && a.Bus == 1 && a.Device == 0 },
		"*:01:00.0":     func(a pci.Address) bool { return a.Bus == 1 && a.Device == 0 && a.Function == 0 },
		"10000:01:0?.*": func(a pci.Address) bool { return a.Domain == 0x10000 && a.Bus == 1 && a.Device < 0x10 },
		"0000:01:00.1":  func(a pci.Address) bool { return a == pci.Address{Bus: 1, Function: 1} },
	}
	keys := []string{"0000:*", "01:00.?", "*:01:00.0", "10000:01:0?.*", "0000:01:00.1"}
	return of(w, "address", keys, strconv.Quote, func(s string, d pci.Device) bool { return patterns[s](d.Address) })
}

func (w world) slot() term {
	return of(w, "slot", worldSlots[1:], strconv.Quote, func(s string, d pci.Device) bool { return d.Slot == s })
}

func (w world) slotRange() term {
	holds := func(r [2]int, d pci.Device) bool {
		n, err := strconv.Atoi(d.Slot)
		return err == nil && r[0] <= n && n <= r[1]
	}
	text := func(r [2]int) string { return fmt.Sprintf("\"%d..%d\"", r[0], r[1]) }
	return of(w, "slot", [][2]int{{1, 1}, {1, 2}, {2, 20}, {0, 99}}, text, holds)
}

func (w world) behind() term {
	return of(w, "behind", worldAddresses, quoted, func(a pci.Address, d pci.Device) bool { return slices.Contains(d.Upstream, a) })
}

func (w world) physfn() term {
	return of(w, "physfn", worldAddresses, quoted, func(a pci.Address, d pci.Device) bool { return d.VirtFn && d.PhysFn == a })
}

func (w world) node() term {
	return of(w, "numa_node", worldNodes[1:], strconv.Itoa, func(n int, d pci.Device) bool { return d.NUMANode == n })
}

func (w world) serial() term {
	text := func(n uint64) string { return fmt.Sprintf("\"%016x\"", n) }
	return of(w, "dsn", worldSerials[1:], text, func(n uint64, d pci.Device) bool { return d.DSN == n })
}

// rounds calls check with many worlds. A failure names the seed of its round;
// POLICY_SEED=that runs this round alone.
func rounds(t *testing.T, check func(t *testing.T, w world)) {
	t.Helper()
	if text := os.Getenv("POLICY_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		round(t, seed, check)
		return
	}
	for i := 0; i < 2000 && !t.Failed(); i++ {
		round(t, rand.Uint64(), check)
	}
}

func round(t *testing.T, seed uint64, check func(t *testing.T, w world)) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("POLICY_SEED=%d", seed)
		}
	}()
	check(t, world{rand.New(rand.NewPCG(seed, 0))})
}

// A matching leave wins; else the first match; bridges and VMD as the manual says.
func TestPropertyDecideAsTheManualSays(t *testing.T) {
	met := map[Verdict]int{}
	rounds(t, func(t *testing.T, w world) {
		plans := w.plans(6)
		text := write(w.Rand, plans)
		p := parse(t, text)
		for range 10 {
			d := w.drive()
			verdict, rule := expect(plans, d)
			got := p.Decide(&d)
			if got.Verdict != verdict || ruleName(got.Rule) != rule {
				t.Errorf("got %+v, want %s by %q\n%+v\n%s", got, verdict, rule, d, text)
			}
			if with := slices.ContainsFunc(plans, func(p plan) bool { return p.name == rule && p.with }); verdict == Bind && with != (got.Group == With) {
				t.Errorf("got %+v, want with %v\n%s", got, with, text)
			}
			met[got.Verdict]++
		}
	})
	t.Log("verdicts met:", met)
	for _, v := range []Verdict{None, Leave, Bind} {
		if met[v] < 100 && os.Getenv("POLICY_SEED") == "" {
			t.Errorf("the worlds hardly ever lead to %s: %d times", v, met[v])
		}
	}
}

func TestPropertyLeaveWinsWhereverItStands(t *testing.T) {
	rounds(t, func(t *testing.T, w world) {
		d := w.drive()
		keep := w.plan("keep")
		for !keep.matches(d) {
			keep = w.plan("keep")
		}
		keep.leave = true
		plans := slices.DeleteFunc(w.plans(5), func(p plan) bool { return p.leave })
		for i := range len(plans) + 1 {
			text := write(w.Rand, slices.Insert(slices.Clone(plans), i, keep))
			got := parse(t, text).Decide(&d)
			if got.Verdict != Leave || ruleName(got.Rule) != "keep" {
				t.Errorf("in place %d: got %+v\n%+v\n%s", i, got, d, text)
			}
		}
	})
}

// write shuffles keys and spells tables in three ways, by chance.
func TestPropertyOrderOfKeysDoesNotMatter(t *testing.T) {
	place := func(reason string) string { // without the line, which does move
		before, rest, found := strings.Cut(reason, "(policy.toml:")
		if !found {
			return reason
		}
		_, after, _ := strings.Cut(rest, ")")
		return before + after
	}
	rounds(t, func(t *testing.T, w world) {
		plans := w.plans(4)
		one, other := write(w.Rand, plans), write(w.Rand, plans)
		p, q := parse(t, one), parse(t, other)
		d := w.drive()
		a, b := p.Decide(&d), q.Decide(&d)
		if a.Verdict != b.Verdict || ruleName(a.Rule) != ruleName(b.Rule) || a.Driver != b.Driver || place(a.Reason) != place(b.Reason) {
			t.Errorf("%+v\n%+v\n%s\n%s", a, b, one, other)
		}
		s, u := p.Explain(&d), q.Explain(&d)
		for i := range s {
			if s[i].Key != u[i].Key || s[i].Matches != u[i].Matches {
				t.Errorf("step %d: %+v, %+v\n%s\n%s", i, s[i], u[i], one, other)
			}
		}
	})
}

func TestPropertyNotNegates(t *testing.T) {
	rounds(t, func(t *testing.T, w world) {
		everything := term{`address = "*"`, func(pci.Device) bool { return true }}
		terms := slices.DeleteFunc(w.terms(3), func(t term) bool { return strings.HasPrefix(t.text, "address") })
		with := parse(t, write(w.Rand, []plan{{name: "r", leave: true, terms: append(slices.Clone(terms), everything)}}))
		without := parse(t, write(w.Rand, []plan{{name: "r", leave: true, terms: []term{everything}, not: terms}}))
		for range 10 {
			d := w.drive()
			a, b := with.Decide(&d).Verdict, without.Decide(&d).Verdict
			if (a == Leave) == (b == Leave) {
				t.Errorf("%s with and %s without %v\n%+v", a, b, texts(w.Rand, terms), d)
			}
		}
	})
}

func TestPropertyExplainAgreesWithDecide(t *testing.T) {
	rounds(t, func(t *testing.T, w world) {
		plans := w.plans(6)
		text := write(w.Rand, plans)
		p := parse(t, text)
		d := w.drive()
		decision := p.Decide(&d)
		var deciding []string
		for i, step := range p.Explain(&d) {
			matches := plans[i].matches(d) && (plans[i].leave || plans[i].vmd || !d.VMD)
			if step.Rule.Name != plans[i].name || step.Matches != matches {
				t.Errorf("step %d: %+v, want %v\n%+v\n%s", i, step, matches, d, text)
			}
			if step.Matches != (step.Key == "") || step.Why == "" || strings.Contains(step.Why, "\n") {
				t.Errorf("step %d is not told: %+v", i, step)
			}
			if step.Decides {
				deciding = append(deciding, step.Rule.Name)
			}
		}
		if decision.Rule == nil && deciding != nil || decision.Rule != nil && !slices.Equal(deciding, []string{decision.Rule.Name}) {
			t.Errorf("steps of %q decide, Decide says %+v\n%+v\n%s", deciding, decision, d, text)
		}
	})
}

// What Needs does not name may be left unread.
func TestPropertyNeedsIsAllThatIsLookedAt(t *testing.T) {
	rounds(t, func(t *testing.T, w world) {
		text := write(w.Rand, w.plans(3))
		p := parse(t, text)
		d := w.drive()
		unread, needs := d, p.Needs()
		if !needs.Has(Slot) {
			unread.Slot = ""
		}
		if !needs.Has(Upstream) {
			unread.Upstream = nil
		}
		if !needs.Has(NUMA) {
			unread.NUMANode = 77
		}
		if !needs.Has(DSN) {
			unread.DSN = 77
		}
		if !needs.Has(PhysFn) {
			unread.VirtFn, unread.PhysFn = !d.VirtFn, pci.Address{Bus: 77}
		}
		if a, b := p.Decide(&d), p.Decide(&unread); a != b {
			t.Errorf("%+v\n%+v\nneeds %b\n%s", a, b, needs, text)
		}
	})
}

// Whatever an unread fact is in truth, a sure answer is the answer.
func TestPropertyASureAnswerDoesNotDependOnWhatIsUnread(t *testing.T) {
	sure, open := 0, 0
	rounds(t, func(t *testing.T, w world) {
		text := write(w.Rand, w.plans(4))
		p := parse(t, text)
		d := w.drive()
		unread := d
		for _, f := range []Facts{Slot, Upstream, NUMA, DSN, PhysFn} {
			if w.IntN(2) == 0 {
				unread.Unread = append(unread.Unread, pci.Unread{Fact: f, Why: "permission denied"})
			}
		}
		got := p.Decide(&unread)
		if got.Unread != nil {
			open++
			if got.Verdict != Leave || got.Rule == nil {
				t.Errorf("an open answer is %+v\n%s", got, text)
			}
			return
		}
		sure++
		for range 20 {
			other := w.drive()
			truth := d
			for _, u := range unread.Unread {
				switch u.Fact {
				case Slot:
					truth.Slot = other.Slot
				case Upstream:
					truth.Upstream = other.Upstream
				case NUMA:
					truth.NUMANode = other.NUMANode
				case DSN:
					truth.DSN = other.DSN
				case PhysFn:
					truth.VirtFn, truth.PhysFn = other.VirtFn, other.PhysFn
				}
			}
			want := p.Decide(&truth)
			same := want.Verdict == got.Verdict || truth.Bridge() && want.Verdict != Bind
			if !same || got.Verdict == Bind && got != want {
				t.Errorf("got %+v, in truth it is %+v\n%+v\n%s", got, want, truth, text)
			}
		}
	})
	if sure < 100 || open < 100 {
		t.Errorf("the worlds are hardly ever sure, or hardly ever open: %d, %d", sure, open)
	}
}
