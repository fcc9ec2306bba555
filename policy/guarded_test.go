package policy

import (
	"fmt"
	"strings"
	"testing"

	"vfio-hotplug/internal/pci"
)

// bindRule is a rule that binds.
func bindRule(name, match, settings string) string {
	return fmt.Sprintf("[[rule]]\nname = %q\nmatch = { %s }\n%s\n", name, match, settings)
}

func leaveRule(name, match string) string { return bindRule(name, match, `action = "leave"`) }

// tell writes what a guard gets, one pattern or rule a line.
func tell(g Guarded) string {
	var b strings.Builder
	for _, p := range g.Patterns {
		fmt.Fprintf(&b, "%s %s %s", p.Pattern, p.Driver, p.Rule.Name)
		for _, flag := range []struct {
			holds bool
			word  string
		}{{p.Exact, " exact"}, {p.VMD, " vmd"}, {p.Auto, " auto"}, {p.Why != "", ": " + p.Why}} {
			if flag.holds {
				b.WriteString(flag.word)
			}
		}
		b.WriteString("\n")
	}
	for _, u := range g.Unguarded {
		b.WriteString("- " + u.Why + "\n")
	}
	return b.String()
}

func TestGuardedPatterns(t *testing.T) {
	const anyID = "ffffffff ffffffff ffffffff ffffffff"
	const nvme = anyID + " 010802 ffffff"
	for _, c := range []struct{ name, text, want string }{
		{"no rule", "", ""},
		{"a rule that leaves", leaveRule("a", `class = "nvme"`), ""},
		{"guard = false", bindRule("a", `class = "nvme"`, "guard = false"), ""},
		{"every NVMe drive", bindRule("a", `class = "nvme"`, ""),
			nvme + " vfio-pci a exact\n"},
		{"behind VMD too", bindRule("a", `class = "nvme"`, "vmd = true"),
			nvme + " vfio-pci a exact vmd\n"},
		{"another driver", bindRule("a", `class = "nvme"`, `driver = "uio_pci_generic"`),
			nvme + " uio_pci_generic a exact\n"},
		{"auto", bindRule("a", `class = "nvme"`, `driver = "auto"`),
			nvme + " vfio-pci a exact auto\n"},
		{"all five keys",
			bindRule("a", `class = "storage", vendor = 0x144d, device = 0xa80a, subsystem_vendor = 0x1028, subsystem_device = 0x0001`, ""),
			"0000144d 0000a80a 00001028 00000001 010000 ff0000 vfio-pci a exact\n"},
		{"each of every list", bindRule("a", `class = ["nvme", "sas"], vendor = 0x144d, device = [0x1, 0x2]`, ""),
			"0000144d 00000001 ffffffff ffffffff 010802 ffffff vfio-pci a exact\n" +
				"0000144d 00000002 ffffffff ffffffff 010802 ffffff vfio-pci a exact\n" +
				"0000144d 00000001 ffffffff ffffffff 010700 ffff00 vfio-pci a exact\n" +
				"0000144d 00000002 ffffffff ffffffff 010700 ffff00 vfio-pci a exact\n"},
		{"an ID that is all ones is one ID", bindRule("a", `class = "nvme", vendor = 0xffff`, ""),
			"0000ffff ffffffff ffffffff ffffffff 010802 ffffff vfio-pci a exact\n"},
		{"bridges among the classes are left out", bindRule("a", `class = ["0604", "nvme"]`, ""),
			nvme + " vfio-pci a exact\n"},
		{"endpoints of the class of bridges are not", bindRule("a", `class = "0680"`, ""),
			anyID + ` 068000 ffff00 vfio-pci a: rule "a" (policy.toml:1) has no class that rules out bridges, which are never bound` + "\n"},

		// One pattern covers another.
		{"the same twice", bindRule("a", `class = ["nvme", "nvme"]`, "") + bindRule("b", `class = "nvme"`, ""),
			nvme + " vfio-pci a exact\n"},
		{"the same, of which one is exact", bindRule("a", `class = "nvme", slot = "1"`, "") + bindRule("b", `class = "nvme"`, ""),
			nvme + " vfio-pci b exact\n"},
		{"the same, of which one says vmd", bindRule("a", `class = "nvme"`, "") + bindRule("b", `class = "nvme"`, "vmd = true"),
			nvme + " vfio-pci b exact vmd\n"},
		{"a narrow one, then a wide one", bindRule("a", `class = "nvme", vendor = 0x144d`, "") + bindRule("b", `class = "storage"`, ""),
			anyID + " 010000 ff0000 vfio-pci b exact\n"},
		{"a narrow one of another driver", bindRule("a", `class = "nvme"`, "") + bindRule("b", `class = "nvme", vendor = 0x144d`, `driver = "uio_pci_generic"`),
			nvme + " vfio-pci a exact\n" +
				"0000144d ffffffff ffffffff ffffffff 010802 ffffff uio_pci_generic b" + `: rule "a" (policy.toml:1) gives some of them to vfio-pci` + "\n"},
		{"a rule that says auto below", bindRule("a", `class = "nvme"`, "") + bindRule("b", `class = "nvme", vendor = 0x144d`, `driver = "auto"`),
			nvme + " vfio-pci a exact auto\n"},

		// What is in the way of an exact pattern.
		{"a slot", bindRule("front bays", `class = "nvme", slot = "1..12"`, ""),
			nvme + ` vfio-pci front bays: rule "front bays" (policy.toml:1) goes by slot too` + "\n"},
		{"places and not", bindRule("a", `class = "nvme", behind = "01:00.0", numa_node = 1, not = { vendor = 0x8086 }`, ""),
			nvme + ` vfio-pci a: rule "a" (policy.toml:1) goes by behind and numa_node and not too` + "\n"},
		{"no class, so bridges too", bindRule("a", `vendor = 0x144d`, ""),
			"0000144d ffffffff ffffffff ffffffff" + ` 000000 000000 vfio-pci a: rule "a" (policy.toml:1) has no class that rules out bridges, which are never bound` + "\n"},
		{"a class with bridges in it", bindRule("a", `class = "0x000000/0x00ff00"`, ""),
			anyID + ` 000000 00ff00 vfio-pci a: rule "a" (policy.toml:1) has no class that rules out bridges, which are never bound` + "\n"},
		{"a leave rule by address", bindRule("a", `class = "nvme"`, "") + leaveRule("boot drive", `address = "01:00.0"`),
			nvme + ` vfio-pci a: rule "boot drive" (policy.toml:5) leaves some of them` + "\n"},
		{"a leave rule by class and slot", bindRule("a", `class = "nvme"`, "") + leaveRule("b", `class = "storage", slot = "1"`),
			nvme + ` vfio-pci a: rule "b" (policy.toml:5) leaves some of them` + "\n"},
		{"a leave rule of not alone", bindRule("a", `class = "nvme"`, "") + leaveRule("b", `not = { class = "nvme" }`),
			nvme + ` vfio-pci a: rule "b" (policy.toml:5) leaves some of them` + "\n"},
		{"a leave rule for other classes", bindRule("a", `class = "nvme"`, "") + leaveRule("b", `class = ["nic", "sata"], slot = "1"`),
			nvme + " vfio-pci a exact\n"},
		{"a leave rule for one vendor of two", bindRule("a", `class = "nvme", vendor = [0x144d, 0x8086]`, "") + leaveRule("b", `vendor = 0x8086`),
			"0000144d ffffffff ffffffff ffffffff 010802 ffffff vfio-pci a exact\n" +
				"00008086 ffffffff ffffffff ffffffff 010802 ffffff vfio-pci a" + `: rule "b" (policy.toml:5) leaves some of them` + "\n"},
		{"an earlier rule with another driver", bindRule("a", `slot = "1"`, "driver = \"uio_pci_generic\"\nguard = false") + bindRule("b", `class = "nvme"`, ""),
			nvme + ` vfio-pci b: rule "a" (policy.toml:1) gives some of them to uio_pci_generic` + "\n"},
		{"an earlier rule that says guard = false", bindRule("a", `class = "nvme", vendor = 0x144d`, "guard = false") + bindRule("b", `class = "nvme"`, ""),
			nvme + ` vfio-pci b: rule "a" (policy.toml:1) says guard = false for some of them` + "\n"},
		{"an earlier rule with the same driver", bindRule("a", `class = "nvme", slot = "1"`, `driver = "auto"`) + bindRule("b", `class = "storage"`, ""),
			anyID + " 010000 ff0000 vfio-pci b exact auto\n"},
		{"a later rule", bindRule("a", `class = "nvme"`, "") + bindRule("b", `vendor = 0x144d`, "guard = false"),
			nvme + " vfio-pci a exact\n"},

		// No pattern.
		{"a place alone", bindRule("bays", `slot = "1..12", not = { class = "nic" }`, ""),
			`- rule "bays" (policy.toml:1) names no class, vendor, device or subsystem, so neither claim nor stub can guard it: add a class, or say guard = false` + "\n"},
		{"a place alone, unguarded on purpose", bindRule("bays", `slot = "1..12"`, "guard = false"), ""},
		{"a place alone, and a rule with a class", bindRule("bays", `slot = "1"`, "") + bindRule("b", `class = "nvme"`, ""),
			nvme + " vfio-pci b exact\n" +
				`- rule "bays" (policy.toml:1) names no class, vendor, device or subsystem, so neither claim nor stub can guard it: add a class, or say guard = false` + "\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := tell(parse(t, c.text).Guarded()); got != c.want {
				t.Errorf("got\n%s\nwant\n%s\nfor\n%s", got, c.want, c.text)
			}
		})
	}
}

func TestGuardedOfNoPolicy(t *testing.T) {
	var none *Policy
	if g := none.Guarded(); len(g.Patterns)+len(g.Unguarded) != 0 || none.Warnings() != nil {
		t.Errorf("got %+v", g)
	}
}

// Lists that multiply must cost neither memory nor time.
func TestGuardedRefusesTooManyCombinations(t *testing.T) {
	ids := func(n int) string {
		words := make([]string, n)
		for i := range words {
			words[i] = pci.ID(i).String()
		}
		return "[" + strings.Join(words, ", ") + "]"
	}
	most := bindRule("most", fmt.Sprintf(`vendor = %s, device = %s`, ids(32), ids(31)), "")
	rest := bindRule("rest", fmt.Sprintf(`class = "nvme", subsystem_vendor = %s`, ids(32)), `driver = "uio_pci_generic"`)
	more := bindRule("more", `class = "nvme"`, "")
	huge := bindRule("huge", fmt.Sprintf(`vendor = %[1]s, device = %[1]s, subsystem_vendor = %[1]s, subsystem_device = %[1]s`, ids(3000)), "")

	g := parse(t, huge+most+rest+more).Guarded()
	if len(g.Patterns) != 1024 {
		t.Errorf("%d patterns", len(g.Patterns))
	}
	var rules []string
	for _, u := range g.Unguarded {
		rules = append(rules, u.Rule.Name)
	}
	if got := strings.Join(rules, " "); got != "huge more" {
		t.Errorf("without a guard: %q", got)
	}
	const want = `with rule "more" (policy.toml:13) the combinations of IDs are more than 1024, so neither claim nor stub can guard it: name fewer, or say guard = false`
	if got := g.Unguarded[1].Why; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// Rules for many slots, and for the same IDs in each, are one pattern: what
// counts is what a guard writes.
func TestGuardedCountsEachCombinationOnce(t *testing.T) {
	var text strings.Builder
	for i := range 1100 {
		text.WriteString(bindRule(fmt.Sprintf("bay %d", i), fmt.Sprintf(`class = "nvme", slot = "%d"`, i), ""))
	}
	text.WriteString(bindRule("cards", `class = "nic"`, `driver = "uio_pci_generic"`))
	text.WriteString(bindRule("all", `class = "nvme"`, ""))
	p := parse(t, text.String())
	g := p.Guarded()
	if len(g.Patterns) != 2 || len(g.Unguarded) != 0 {
		t.Fatalf("%d patterns and %d rules without one, want 2 and 0: %q", len(g.Patterns), len(g.Unguarded), p.Warnings())
	}
	// The last rule's pattern is the surest of its IDs, and comes last.
	if rule := g.Patterns[1].Rule.Name; rule != "all" || g.Patterns[0].Driver != "uio_pci_generic" {
		t.Errorf("got\n%s", tell(g))
	}
}

// The mode decides whether it matters that there are no IDs.
func TestWarningsAreForModesThatNeedIDs(t *testing.T) {
	rules := bindRule("bays", `slot = "1"`, "") + bindRule("drives", `class = "nvme"`, "") + bindRule("port", `behind = "01:00.0"`, "")
	want := map[GuardMode]bool{GuardAuto: true, GuardClaim: true, GuardStub: true}
	for _, mode := range guardModes() {
		p := parse(t, rules+fmt.Sprintf("[guard]\nmode = %q\n", mode))
		lines := p.Warnings()
		if !want[mode] {
			if len(lines) != 0 {
				t.Errorf("%s: %q", mode, lines)
			}
			continue
		}
		if len(lines) != 2 || !strings.HasPrefix(lines[0], `rule "bays" (policy.toml:1) `) || !strings.HasPrefix(lines[1], `rule "port" (policy.toml:9) `) {
			t.Errorf("%s: %q", mode, lines)
		}
	}
}

func BenchmarkGuarded100(b *testing.B) {
	p := parse(b, hundredRules())
	for b.Loop() {
		p.Guarded()
	}
}
