package policy

import "fmt"

// GuardMode says how new devices are kept from other drivers until the policy
// has decided about them.
type GuardMode uint8

// The modes that [guard] can name.
const (
	GuardAuto  GuardMode = iota // the strongest that is exact on this machine
	GuardClaim                  // a dynamic ID of the wanted driver
	GuardStub                   // a dynamic ID of pci-stub
	GuardGate                   // drivers_autoprobe closed for every new device
	GuardRace                   // none, but the daemon tries to be first
	GuardOff                    // none, as if every rule said guard = false
)

// String gives the word that the policy file uses.
func (g GuardMode) String() string {
	switch g {
	case GuardAuto:
		return "auto"
	case GuardClaim:
		return "claim"
	case GuardStub:
		return "stub"
	case GuardGate:
		return "gate"
	case GuardRace:
		return "race"
	case GuardOff:
		return "off"
	}
	return fmt.Sprintf("GuardMode(%d)", uint8(g))
}

// ParseGuardMode reads the word that String gives.
func ParseGuardMode(word string) (GuardMode, error) {
	for _, g := range guardModes() {
		if word == g.String() {
			return g, nil
		}
	}
	return GuardAuto, fmt.Errorf("%q is not a guard: want auto, claim, stub, gate, race or off", word)
}

func guardModes() []GuardMode {
	return []GuardMode{GuardAuto, GuardClaim, GuardStub, GuardGate, GuardRace, GuardOff}
}
