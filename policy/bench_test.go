package policy

import (
	"fmt"
	"strings"
	"testing"

	"vfio-hotplug/internal/pci"
)

// hundredRules is a policy of 100 rules that use every key.
func hundredRules() string {
	var b strings.Builder
	rule := func(name, match, rest string) {
		fmt.Fprintf(&b, "[[rule]]\nname = %q\nmatch = { %s }\n%s\n", name, match, rest)
	}
	for i := range 10 {
		rule(fmt.Sprint("keep ", i), fmt.Sprintf(`address = "%04x:*:1f.?"`, i), `action = "leave"`)
		rule(fmt.Sprint("bays ", i), fmt.Sprintf(`class = "nvme", slot = ["%d..%d", "%d-*"]`, 100+i, 110+i, i), "")
		rule(fmt.Sprint("port ", i), fmt.Sprintf(`class = "storage", behind = "0000:00:%02x.3"`, i), "")
		rule(fmt.Sprint("drive ", i), fmt.Sprintf(`dsn = ["00-11-22-33-44-55-66-%02x", 0x7f%02x223344556677]`, i, i), "")
		rule(fmt.Sprint("node ", i), fmt.Sprintf(`class = ["nvme", "nic"], numa_node = %d`, 8+i), `driver = "auto"`)
		rule(fmt.Sprint("model ", i), fmt.Sprintf(`vendor = 0x144d, device = [0xb0%02x, 0xb1%02x], subsystem_vendor = 0x144e`, i, i), "")
		rule(fmt.Sprint("VFs ", i), fmt.Sprintf(`class = "nvme", physfn = "%02x:00.0"`, i), "")
		rule(fmt.Sprint("rack ", i), fmt.Sprintf(`address = ["0000:8%x:*", "0000:9%x:*", "1000%x:*"]`, i, i, i), "vmd = true")
		rule(fmt.Sprint("others ", i), fmt.Sprintf(`class = "nvme", not = { address = "0000:*" }, slot = "%d"`, i), "")
		rule(fmt.Sprint("last ", i), fmt.Sprintf(`class = "0x010800/0xffff00", vendor = 0x1c%02x`, i), "")
	}
	return b.String()
}

// hundredRulesDevices are a drive that no rule of hundredRules names, so that all
// of them are asked, one that the last rule takes, and one that a rule leaves.
func hundredRulesDevices() map[string]pci.Device {
	last, left := drive(), drive()
	last.Vendor = 0x1c09
	left.Address = pci.Address{Domain: 9, Bus: 0x80, Device: 0x1f, Function: 3}
	return map[string]pci.Device{"none": drive(), "bind": last, "leave": left}
}

func TestHundredRulesDecideOnTheirDevices(t *testing.T) {
	p := parse(t, hundredRules())
	if n := len(p.Rules()); n != 100 {
		t.Fatalf("%d rules", n)
	}
	want := map[string]Verdict{"none": None, "bind": Bind, "leave": Leave}
	for name, d := range hundredRulesDevices() {
		if got := p.Decide(&d); got.Verdict != want[name] {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	text := []byte(hundredRules())
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse("policy.toml", text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkExplain100(b *testing.B) {
	p := parse(b, hundredRules())
	d := drive()
	for b.Loop() {
		p.Explain(&d)
	}
}
