package policy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestASlotThatLooksOtherwiseIsWarnedOf(t *testing.T) {
	for slot, want := range map[string]string{
		`"1-24"`:                      `rule "bays" (p.toml:1) has slot = "1-24", which is the one slot of that name: a range is written "1..24"`,
		`["7", "1-1"]`:                `rule "bays" (p.toml:1) has slot = "1-1", which is the one slot of that name: a range is written "1..1"`,
		`"1..24"`:                     "",
		`"bay-1"`:                     "",
		`"03:00.0"`:                   `rule "bays" (p.toml:1) has slot = "03:00.0", which is the slot of that name: the address of a device is the key address`,
		`"0000:03:00"`:                `rule "bays" (p.toml:1) has slot = "0000:03:00", which is the slot of that name: the address of a device is the key address`,
		`"1-"`:                        "",
		`"1-*"`:                       "",
		`"7", not = { slot = "8-9" }`: `rule "bays" (p.toml:1) has slot = "8-9", which is the one slot of that name: a range is written "8..9"`,
	} {
		p, err := Parse("p.toml", []byte("[[rule]]\nname = \"bays\"\nmatch = { class = \"nvme\", slot = "+slot+" }\n"))
		if err != nil {
			t.Errorf("%s: %v", slot, err)
			continue
		}
		var lines []string
		if want != "" {
			lines = []string{want}
		}
		if diff := cmp.Diff(lines, p.Warnings()); diff != "" {
			t.Errorf("%s: warnings (-want +got):\n%s", slot, diff)
		}
	}
}

func TestASlotIsWarnedOfInARuleThatLeavesAndInEveryMode(t *testing.T) {
	p, err := Parse("p.toml", []byte("[guard]\nmode = \"off\"\n\n[[rule]]\nname = \"system\"\nmatch = { slot = \"1-2\" }\naction = \"leave\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	if lines := p.Warnings(); len(lines) != 1 {
		t.Errorf("warnings %q, want one", lines)
	}
}

func TestTheKernelsDriverIsWarnedOf(t *testing.T) {
	p, err := Parse("p.toml", []byte("[[rule]]\nname = \"bays\"\nmatch = { class = \"nvme\" }\ndriver = \"nvme\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	if lines := p.Warnings(); len(lines) != 1 || !strings.HasPrefix(lines[0], `rule "bays" (p.toml:1) has driver = "nvme", `) {
		t.Errorf("warnings %q, want one of the driver", lines)
	}
}

func TestOfManyWarningsOfOneKindTheFirstAreGiven(t *testing.T) {
	text := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "[[rule]]\nname = \"%d\"\nmatch = { slot = \"1-%d\" }\naction = \"leave\"\n", i, i)
		}
		return b.String()
	}
	for n, want := range map[int]int{10: 10, 11: 11, 64: 11} {
		p, err := Parse("p.toml", []byte(text(n)))
		if err != nil {
			t.Fatal(err)
		}
		lines := p.Warnings()
		if len(lines) != want {
			t.Errorf("%d rules: %d warnings, want %d", n, len(lines), want)
		}
		if last := lines[len(lines)-1]; n == 64 && last != "and 54 more of this kind" {
			t.Errorf("the last is %q", last)
		}
	}
}
