package policy

import (
	"fmt"
	"strings"
	"testing"
)

func TestASummaryCountsInEnglish(t *testing.T) {
	for _, c := range []struct {
		take, leave int
		want        string
	}{
		{0, 0, "no rule, so nothing is taken"},
		{1, 0, "1 rule, and it takes devices"},
		{0, 1, "1 rule, and it takes nothing"},
		{0, 2, "2 rules, and none takes devices"},
		{1, 1, "2 rules, 1 of them takes devices"},
		{2, 1, "3 rules, 2 of them take devices"},
	} {
		var text strings.Builder
		for i := range c.take + c.leave {
			fmt.Fprintf(&text, "[[rule]]\nname = \"%d\"\nmatch = { class = \"nvme\", slot = \"%d\" }\n", i, i)
			if i >= c.take {
				text.WriteString("action = \"leave\"\n")
			}
		}
		if got := parse(t, text.String()).Summary(); got != c.want {
			t.Errorf("%d that take, %d that leave: %q, want %q", c.take, c.leave, got, c.want)
		}
	}
	shadowed := bindRule("first", `class = "nvme"`, "") + bindRule("second", `class = "nvme", slot = "1"`, "")
	if got := parse(t, shadowed).Summary(); got != "2 rules, 1 of them takes devices" {
		t.Errorf("one that takes nothing: %q", got)
	}
	if got := parse(t, shadowed+leaveRule("all stay", `class = "storage"`)).Summary(); got != "3 rules, and none takes devices" {
		t.Errorf("two that take nothing: %q", got)
	}
	if got := (*Policy)(nil).Summary(); got != "no rule, so nothing is taken" {
		t.Errorf("no policy: %q", got)
	}
}
