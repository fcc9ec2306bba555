package policy

import (
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestARuleThatAnotherShadowsIsWarnedOf(t *testing.T) {
	const first = "rule \"b\" (p.toml:4) takes nothing: rule \"a\" (p.toml:1) stands before it and is about all of its devices"
	for _, c := range []struct {
		about, a, b string
		shadowed    bool
	}{
		{"the same", `class = "nvme"`, `class = "nvme"`, true},
		{"one condition more", `class = "nvme"`, `class = "nvme", slot = "3"`, true},
		{"one condition less", `class = "nvme", slot = "3"`, `class = "nvme"`, false},
		{"another condition", `class = "nvme"`, `slot = "3"`, false},
		{"fewer values", `vendor = [0x144d, 0x8086]`, `vendor = 0x8086, device = 0x0a54`, true},
		{"a value more", `vendor = 0x144d`, `vendor = [0x144d, 0x8086]`, false},
		{"a narrower class", `class = "storage"`, `class = "nvme"`, true},
		{"a wider class", `class = "nvme"`, `class = "storage"`, false},
		{"a range in a range", `slot = "1..24"`, `slot = ["1..4", "7"]`, true},
		{"a range beyond a range", `slot = "1..24"`, `slot = "20..25"`, false},
		{"a pattern in a range", `slot = "1..24"`, `slot = "1*"`, false},
		{"any slot", `slot = "*"`, `slot = ["1..4", "bay-?"]`, true},
		{"a range in a pattern", `slot = "1*"`, `slot = "1..1"`, false},
		{"an address in a pattern", `address = "0000:4?:00.0"`, `address = "0000:41:00.0"`, true},
		{"a pattern in a pattern", `address = "0000:*"`, `address = "0000:4?:00.0"`, true},
		{"a question for a star", `address = "0000:4?:00.0"`, `address = "0000:4*:00.0"`, false},
		{"another address", `address = "0000:41:00.0"`, `address = "0000:42:00.0"`, false},
		{"ports", `behind = ["0000:00:1c.0", "0000:00:1d.0"]`, `behind = "0000:00:1d.0"`, true},
		{"nodes", `numa_node = 0`, `numa_node = 1`, false},
		{"an exclusion that the other has not", `class = "nvme", not = { slot = "3" }`, `class = "nvme"`, false},
		{"an exclusion that the other has too", `class = "nvme", not = { slot = "3" }`, `class = "nvme", not = { slot = "1..4" }`, true},
		{"an exclusion of more", `class = "nvme", not = { slot = "1..4" }`, `class = "nvme", not = { slot = "3" }`, false},
	} {
		text := "[[rule]]\nname = \"a\"\nmatch = { " + c.a + " }\n[[rule]]\nname = \"b\"\nmatch = { " + c.b + " }\n"
		p, err := Parse("p.toml", []byte("[guard]\nmode = \"off\"\n"+text))
		if err != nil {
			t.Errorf("%s: %v", c.about, err)
			continue
		}
		if got := p.shadow(1) == &p.rules[0]; got != c.shadowed {
			t.Errorf("%s: shadowed is %v, want %v", c.about, got, c.shadowed)
		}
	}
	p, err := Parse("p.toml", []byte("[[rule]]\nname = \"a\"\nmatch = { class = \"nvme\" }\n[[rule]]\nname = \"b\"\nmatch = { class = \"nvme\" }\n"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{first}, p.Warnings()); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

func TestALeaveRuleShadowsWhereverItStands(t *testing.T) {
	p := parse(t, `
[[rule]]
name  = "bays"
match = { class = "nvme", slot = "1..4" }

[[rule]]
name   = "all stays"
match  = { class = "nvme" }
action = "leave"

[[rule]]
name   = "boot drive"
match  = { class = "nvme", address = "0000:01:00.0" }
action = "leave"
`)
	want := []string{p.rules[0].String() + " takes nothing: " + p.rules[1].String() + " is about all of its devices, and one that leaves wins"}
	if diff := cmp.Diff(want, p.Warnings()); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

// Behind Intel VMD the rule before does not count, if it does not say so.
func TestARuleForVMDIsNotShadowedByOneThatIsNot(t *testing.T) {
	p := parse(t, `
[[rule]]
name  = "bays"
match = { class = "nvme" }

[[rule]]
name  = "behind VMD"
match = { class = "nvme" }
vmd   = true
`)
	if lines := p.Warnings(); lines != nil {
		t.Errorf("warnings %q, want none", lines)
	}
}

func TestPropertyAShadowedRuleDecidesNothing(t *testing.T) {
	found := 0
	rounds(t, func(t *testing.T, w world) {
		p := parse(t, write(w.Rand, w.plans(6)))
		var shadowed []*Rule
		for i := range p.rules {
			if p.rules[i].Action == Bind && p.shadow(i) != nil {
				shadowed = append(shadowed, &p.rules[i])
			}
		}
		found += len(shadowed)
		for range 50 {
			d := w.drive()
			if r := p.Decide(&d).Rule; slices.Contains(shadowed, r) {
				t.Fatalf("%s decides on %+v, and is said to be shadowed", r, d)
			}
		}
	})
	if found == 0 && os.Getenv("POLICY_SEED") == "" {
		t.Error("no rule was shadowed, so nothing was tested")
	}
}
