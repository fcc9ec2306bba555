package policy

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"vfio-hotplug/internal/pci"
)

// examples uncomments the examples of a policy file: the lines that start with a
// # and go on without a space.
func examples(text string) string {
	return regexp.MustCompile(`(?m)^#([^ #\n])`).ReplaceAllString(text, "$1")
}

func readFile(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

const shipped = "../packaging/policy.toml"

func TestShippedPolicyTakesNothing(t *testing.T) {
	p, err := LoadFiles(shipped)
	if err != nil {
		t.Fatal(err)
	}
	if rules := p.Rules(); len(rules) != 0 {
		t.Errorf("it has %d rules", len(rules))
	}
}

// The examples of the shipped policy do what is said above them.
func TestShippedExamples(t *testing.T) {
	p := parse(t, examples(readFile(t, shipped)))
	if !strings.Contains(examples(readFile(t, shipped)), "\n[guard]\nmode = \"auto\"\n") || p.GuardMode() != GuardAuto {
		t.Errorf("the guard that it shows is not the default, but %s", p.GuardMode())
	}
	if lines := p.Warnings(); len(lines) > 0 {
		t.Errorf("warnings: %q", lines)
	}
	boot, bay, intel, rear, cache, card, lab, vf, acc := drive(), drive(), drive(), drive(), drive(), drive(), drive(), drive(), drive()
	for _, d := range []*pci.Device{&bay, &intel, &rear, &cache, &card, &lab, &vf, &acc} {
		*d = pci.Device{Address: pci.Address{Bus: 0x60}, Class: pci.NVMe, Vendor: 0x1c5c, NUMANode: pci.NoNode}
	}
	boot.Address = pci.Address{Bus: 1}
	bay.Slot = "24"
	intel.Slot, intel.Vendor = "24", 0x8086
	rear.Upstream = []pci.Address{{Device: 0x1d}}
	cache.Vendor, cache.DeviceID = 0x144d, 0xa80a
	card.Upstream = []pci.Address{{Device: 0x1b}}
	lab.DSN = 0x0011223344556677
	vf.Class, vf.VirtFn, vf.PhysFn = 0x020000, true, pci.Address{Bus: 0x3b}
	acc.Class, acc.NUMANode = 0x120000, 0
	vmd := bay
	vmd.VMD, vmd.Address = true, pci.Address{Domain: 0x10000, Bus: 1}

	seen := map[string]bool{}
	for _, c := range []struct {
		device pci.Device
		want   Decision
		rule   string
	}{
		{boot, Decision{Verdict: Leave}, "boot and log drives stay"},
		{bay, Decision{Verdict: Bind, Driver: VFIO}, "front bays"},
		{intel, Decision{Verdict: None}, ""},
		{rear, Decision{Verdict: Bind, Driver: VFIO}, "rear bays"},
		{cache, Decision{Verdict: Bind, Driver: VFIO, Takeover: Idle}, "cache drives"},
		{card, Decision{Verdict: Bind, Driver: VFIO, Group: With}, "the card with two controllers"},
		{lab, Decision{Verdict: Bind, Driver: VFIO}, "the drive of the laboratory"},
		{vf, Decision{Verdict: Bind, Driver: Auto}, "VFs of the first port"},
		{acc, Decision{Verdict: Bind, Driver: UIO}, "accelerators on node 0"},
		{vmd, Decision{Verdict: None}, ""},
	} {
		got := p.Decide(&c.device)
		rule := ruleName(got.Rule)
		seen[rule] = true
		got.Rule, got.Reason = nil, ""
		if got != c.want || rule != c.rule {
			t.Errorf("%q: got %+v by %q", c.rule, got, rule)
		}
	}
	for _, r := range p.Rules() {
		if !seen[r.Name] {
			t.Errorf("no device shows what the example %q does", r.Name)
		}
	}
}

const manual = "../packaging/man/vfio-hotplug-policy.5"

// The examples of the manual page, one after the other, are one policy.
func TestManualExamples(t *testing.T) {
	var text strings.Builder
	for _, block := range regexp.MustCompile(`(?ms)^\.Bd -literal.*?\n(.*?)^\.Ed`).FindAllStringSubmatch(readFile(t, manual), -1) {
		if strings.Contains(block[1], "[[rule]]") || strings.Contains(block[1], "[guard]") {
			text.WriteString(strings.NewReplacer(`\(dq`, `"`, `\e`, `\`, `\&`, "").Replace(block[1]))
		}
	}
	p := parse(t, text.String())
	if n := len(p.Rules()); n < 3 {
		t.Errorf("only %d rules in\n%s", n, text.String())
	}
	if p.GuardMode() == GuardAuto {
		t.Errorf("no mode in\n%s", text.String())
	}
}

// The manual page names everything that a policy can say.
func TestManualIsComplete(t *testing.T) {
	page := readFile(t, manual)
	for _, key := range ruleKeys() {
		if !regexp.MustCompile(`(?m)^\.It Ic ` + key + ` `).MatchString(page) {
			t.Errorf("the key %s of a rule is missing", key)
		}
	}
	for _, g := range guardModes() {
		if !regexp.MustCompile(`(?m)^\.It Li ` + g.String() + `$`).MatchString(page) {
			t.Errorf("the mode %s is missing", g)
		}
	}
	for k := matched + 1; k < numKeys; k++ {
		if !regexp.MustCompile(`(?m)^\.It Ic ` + k.String() + ` `).MatchString(page) {
			t.Errorf("the key %s of a match is missing", k)
		}
	}
	for _, word := range []string{Bind.String(), Leave.String(), Blank.String(), Never.String(), Idle.String(), VFIO, UIO, Auto} {
		if !regexp.MustCompile(`(?m)^\.It (Li|Dv|Cm) ` + word + `$|\.Dq ` + word + `\b`).MatchString(page) {
			t.Errorf("the value %s is missing", word)
		}
	}
	for _, c := range classNames() {
		if !regexp.MustCompile(`(?m)^\.It Li ` + c.name + ` Ta `).MatchString(page) {
			t.Errorf("the class %s is missing", c.name)
		}
	}
}
