package policy

import "testing"

func TestGuardModeIsReadFromAnyFile(t *testing.T) {
	guard := func(mode string) string { return "[guard]\nmode = \"" + mode + "\"\n" }
	for _, c := range []struct {
		name  string
		files map[string]string
		want  GuardMode
	}{
		{"no file", nil, GuardAuto},
		{"not named", map[string]string{"policy.toml": takes("a")}, GuardAuto},
		{"an empty table", map[string]string{"policy.toml": "[guard]\n"}, GuardAuto},
		{"above the rules", map[string]string{"policy.toml": guard("claim") + takes("a")}, GuardClaim},
		{"below the rules", map[string]string{"policy.toml": takes("a") + guard("stub")}, GuardStub},
		{"dotted", map[string]string{"policy.toml": "guard.mode = \"gate\"\n"}, GuardGate},
		{"in a drop-in", map[string]string{"policy.d/10.toml": guard("race"), "policy.toml": takes("a")}, GuardRace},
		{"the same in two files", map[string]string{"policy.d/10.toml": guard("off"), "policy.toml": guard("off")}, GuardOff},
		{"the default, said", map[string]string{"policy.toml": guard("auto")}, GuardAuto},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := Load(tree("/etc/v", c.files))
			if err != nil {
				t.Fatal(err)
			}
			if got := p.GuardMode(); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// Whoever wins would surprise the other, also where the other names the default.
func TestTwoGuardModesAreAFaultThatNamesBothPlaces(t *testing.T) {
	_, err := Load(tree("/etc/v", map[string]string{
		"policy.d/10.toml": "[guard]\nmode = \"auto\"\n",
		"policy.toml":      takes("a") + "[guard]\nmode = \"stub\"\n",
	}))
	const want = `/etc/v/policy.toml:5:8: "stub": the mode is "auto" at /etc/v/policy.d/10.toml:2 already`
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

func TestNoPolicyHasTheModeAuto(t *testing.T) {
	var none *Policy
	if none.GuardMode() != GuardAuto || new(Policy).GuardMode() != GuardAuto {
		t.Error("a policy of nothing asks for a guard by name")
	}
}

func TestGuardModesAreReadAsTheyAreWritten(t *testing.T) {
	for _, g := range guardModes() {
		if got, err := ParseGuardMode(g.String()); got != g || err != nil {
			t.Errorf("%s is read as %s, %v", g, got, err)
		}
	}
	for _, word := range []string{"", "Auto", "none", "GuardMode(7)"} {
		if got, err := ParseGuardMode(word); err == nil {
			t.Errorf("%q is read as %s", word, got)
		}
	}
	if got := GuardMode(77).String(); got != "GuardMode(77)" {
		t.Errorf("an unknown mode is called %q", got)
	}
}
