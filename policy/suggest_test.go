package policy

import (
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	keys := ruleKeys()
	for word, want := range map[string]string{
		"nmae":      "name",
		"Name":      "name",
		"drivers":   "driver",
		"take_over": "takeover",
		"tak":       "",
		"vmdd":      "vmd",
		"colour":    "",
		"":          "",
		"matching":  "match",
		"aktion":    "action",
	} {
		if got := nearest(word, keys...); got != want {
			t.Errorf("%q: got %q, want %q", word, got, want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"abc", "abc", 0},
		{"abc", "acb", 1}, {"abc", "ab", 1}, {"abc", "abcd", 1}, {"abc", "axc", 1},
		{"kitten", "sitting", 3}, {"ca", "abc", 3},
	} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("%q, %q: got %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

// Keys that go by other names in lspci, in sysfs and in other programs.
func TestOtherNames(t *testing.T) {
	for word, want := range map[string]string{
		"bdf":           "address",
		"PCI_SLOT_NAME": "address",
		"sub-vendor":    "subsystem_vendor",
		"SDevice":       "subsystem_device",
		"root_port":     "behind",
		"pf":            "physfn",
	} {
		_, err := Parse("f", []byte("[[rule]]\nname = \"r\"\nmatch."+word+" = 1\n"))
		if want := "f:3:7: " + word + ": unknown key; did you mean \"" + want + "\"?"; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// A drive's own serial number is not known before nvme has read it.
func TestASerialNumberIsNotADSN(t *testing.T) {
	for _, word := range []string{"serial", "serial_number", "ID_SERIAL"} {
		_, err := Parse("f", []byte("[[rule]]\nname = \"r\"\nmatch."+word+" = \"x\"\n"))
		if err == nil || !strings.Contains(err.Error(), "known only when a driver has read it: there is dsn,") {
			t.Errorf("%s: got %v", word, err)
		}
	}
}
