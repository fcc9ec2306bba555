package policy

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"vfio-hotplug/internal/pci"
)

// FuzzParse: any text gives a policy or faults. Faults have their place inside
// the text and are one line each; a policy answers for every device, and explains
// itself as it decides.
func FuzzParse(f *testing.F) {
	for _, example := range strings.SplitAfter(examples(readFile(f, shipped)), "\n\n\n") {
		f.Add([]byte(example)) // small seeds: the fuzzer tries more
	}
	f.Add([]byte("rule = [ { name = 'r', match.class = [ 0x01, \"nic\" ], match.not.slot = '?-*' } ]"))
	f.Add([]byte("[rule]\nname = \"r\nmatch = {\n[[rule]]\n[rule.match]\nvendor = [8086, []]\n[[rule]] #"))
	f.Add([]byte("guard.mode = 'stub'\n[[rule]]\nname = 'r'\nmatch.class = 0x01\nguard = true\nvmd = true\ngroup = 'with'\n[guard]\nmode = 'off'"))
	f.Add([]byte("[[rule]]\nname = \"\\u00e9\"\naction = 'leave'\nmatch.address = \"0?:1f.*\"\nmatch.numa_node = 1"))

	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Parse("f", text)
		if err != nil {
			checkFaults(t, text, err)
			return
		}
		for _, d := range fuzzDevices() {
			checkDecision(t, p, &d)
			checkGuarded(t, p, &d)
		}
	})
}

func checkFaults(t *testing.T, text []byte, err error) {
	var faults Faults
	if !errors.As(err, &faults) || len(faults) == 0 {
		t.Fatalf("no Faults: %#v", err)
	}
	lines := bytes.Split(text, []byte("\n"))
	for _, f := range faults {
		if f.Line < 1 || f.Line > len(lines) || f.Column < 1 || f.Column > len(lines[f.Line-1])+1 {
			t.Errorf("a place outside the text: %v", f)
		}
		if f.Message == "" || strings.ContainsAny(f.Error(), "\n\r\x00") {
			t.Errorf("want one line, got %q", f.Error())
		}
	}
}

func checkDecision(t *testing.T, p *Policy, d *pci.Device) {
	decision := p.Decide(d)
	if decision.Reason == "" || strings.ContainsAny(decision.Reason, "\n\r") {
		t.Errorf("want one line of reason, got %q", decision.Reason)
	}
	if (decision.Verdict == None) != (decision.Rule == nil) || (decision.Verdict == Bind) != (decision.Driver != "") {
		t.Errorf("contradictory: %+v", decision)
	}
	deciding := 0
	for _, s := range p.Explain(d) {
		if s.Decides {
			deciding++
			if s.Rule != decision.Rule || !s.Matches {
				t.Errorf("%s decides, Decide says %+v", s.Rule, decision)
			}
		}
	}
	if deciding > 1 || (deciding == 1) != (decision.Rule != nil) {
		t.Errorf("%d steps decide, Decide says %+v", deciding, decision)
	}
}

func checkGuarded(t *testing.T, p *Policy, d *pci.Device) {
	decision, g := p.Decide(d), p.Guarded()
	guarded := decision.Verdict == Bind && decision.Rule.Guard
	if guarded && !g.knows(decision, d.IDs()) {
		t.Errorf("no pattern for %+v", decision)
	}
	for _, pattern := range g.Patterns {
		certain := pattern.Exact && pattern.Pattern.Matches(d.IDs()) && (pattern.VMD || !d.VMD)
		if certain && (!guarded || guardDriver(decision) != pattern.Driver) {
			t.Errorf("%s is exact, Decide says %+v", pattern.Pattern, decision)
		}
	}
}

func fuzzDevices() []pci.Device {
	bridge, vmd, vf := drive(), drive(), drive()
	bridge.Class = 0x060400
	vmd.VMD, vmd.Address.Domain = true, 0x10000
	vf.VirtFn, vf.PhysFn = true, pci.Address{Bus: 0x3b}
	return []pci.Device{{}, drive(), bridge, vmd, vf}
}
