package pci

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
)

func TestParseAddress(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Address
		text string
	}{
		{"0000:01:00.0", Address{Bus: 1}, "0000:01:00.0"},
		{"0000:ff:1f.7", Address{Bus: 0xff, Device: 0x1f, Function: 7}, "0000:ff:1f.7"},
		{"01:00.0", Address{Bus: 1}, "0000:01:00.0"},
		{"0000:AB:0C.1", Address{Bus: 0xab, Device: 0x0c, Function: 1}, "0000:ab:0c.1"},
		{"ffff:00:00.0", Address{Domain: 0xffff}, "ffff:00:00.0"},
		{"10000:01:00.0", Address{Domain: 0x10000, Bus: 1}, "10000:01:00.0"},
		{"00010000:01:00.0", Address{Domain: 0x10000, Bus: 1}, "10000:01:00.0"},
		{"7fffffff:01:00.0", Address{Domain: math.MaxInt32, Bus: 1}, "7fffffff:01:00.0"},
	} {
		t.Run(c.in, func(t *testing.T) {
			got, err := ParseAddress(c.in)
			if err != nil {
				t.Fatal(err)
			}
			if got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			if got.String() != c.text {
				t.Errorf("String: got %s, want %s", got, c.text)
			}
		})
	}
}

func TestParseAddressRefuses(t *testing.T) {
	for _, in := range []string{
		"",
		"01:00",
		"01:00.",
		"1:00.0",
		"01:0.0",
		"001:00.0",
		"01:000.0",
		"01:20.0",   // device numbers end at 1f
		"01:00.8",   // function numbers end at 7
		"01:00.00",  // one digit
		"01:00.0 ",  // the kernel writes no space
		" 01:00.0",  // …
		"01:00.0\n", // …
		"+1:00.0",
		"0x:00.0",
		"1_:00.0",
		"000:01:00.0", // a domain has four digits at least
		":01:00.0",
		"0000:0000:01:00.0",
		"80000000:01:00.0", // the kernel's domain is an int
		"100000000:01:00.0",
		"0000:01:00-0",
		"0000.01.00.0",
		"0000:gg:00.0",
		"0000:０1:00.0",
		"nvme0n1",
		"../../etc",
		strings.Repeat("0", 1000) + ":01:00.0x",
	} {
		t.Run(in, func(t *testing.T) {
			got, err := ParseAddress(in)
			if err == nil {
				t.Fatalf("accepted as %s", got)
			}
			if got != (Address{}) {
				t.Errorf("an address beside the error: %s", got)
			}
			if strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "0000:01:00.0") {
				t.Errorf("want one line with an example, got %q", err)
			}
		})
	}
}

func TestAppendSpellsAsString(t *testing.T) {
	for _, a := range []Address{
		{},
		{Domain: 1},
		{Domain: 0x12},
		{Domain: 0x123},
		{Domain: 0x1234},
		{Domain: 0x12345, Bus: 0xab, Device: 0x1f, Function: 7},
		{Domain: math.MaxUint32, Bus: 255, Device: 255, Function: 255}, // valid or not
	} {
		if got := string(a.Append([]byte("at "))); got != "at "+a.String() {
			t.Errorf("Append: got %q, String gives %q", got, a)
		}
	}
}

func TestAppendDoesNotAllocate(t *testing.T) {
	a := Address{Domain: 0x10000, Bus: 0xab, Device: 0x1f, Function: 7}
	buffer := make([]byte, 0, 32)
	if n := testing.AllocsPerRun(100, func() { a.Append(buffer) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestAddressesSortByPlace(t *testing.T) {
	sorted := []string{
		"0000:00:00.0", "0000:00:00.1", "0000:00:01.0", "0000:01:00.0", "0000:0a:00.0",
		"0001:00:00.0", "ffff:ff:1f.7", "10000:00:00.0", "7fffffff:00:00.0",
	}
	addresses := make([]Address, len(sorted))
	for i, s := range sorted {
		addresses[len(sorted)-1-i] = mustParse(t, s)
	}
	slices.SortFunc(addresses, Address.Compare)
	for i, a := range addresses {
		if a.String() != sorted[i] {
			t.Errorf("place %d: got %s, want %s", i, a, sorted[i])
		}
		if a.Compare(a) != 0 {
			t.Errorf("%s differs from itself", a)
		}
	}
}

func TestAddressInJSON(t *testing.T) {
	text, err := json.Marshal(map[Address]Address{{Bus: 1}: {Domain: 0x10000}})
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"0000:01:00.0":"10000:00:00.0"}`; string(text) != want {
		t.Errorf("got %s, want %s", text, want)
	}
	var back map[Address]Address
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if back[Address{Bus: 1}] != (Address{Domain: 0x10000}) {
		t.Errorf("read back as %v", back)
	}
	a := Address{Bus: 7}
	if err := a.UnmarshalText([]byte("nonsense")); err == nil || a != (Address{Bus: 7}) {
		t.Errorf("nonsense gave %v and made it %s", err, a)
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"0000:01:00.0", "10000:e1:1f.7", "01:00.0", "00010000:AB:00.0", "7fffffff:ff:1f.7", "80000000:00:00.0", "::.", "1:2:3.4"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			return
		}
		text := a.String()
		again, err := ParseAddress(text)
		if err != nil || again != a {
			t.Fatalf("%q is read as %s, which is read as %s, %v", s, text, again, err)
		}
		if !strings.HasSuffix(text, strings.ToLower(strings.TrimLeft(s, "0"))) {
			t.Errorf("%q is read as another address: %s", s, text)
		}
		if got := string(a.Append(nil)); got != text {
			t.Errorf("Append gives %s, String %s", got, text)
		}
	})
}

func mustParse(t *testing.T, s string) Address {
	t.Helper()
	a, err := ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestParseNodeName(t *testing.T) {
	for in, want := range map[string]string{
		"pci_0000_03_00_0":  "0000:03:00.0",
		"pci_0000_AB_1f_7":  "0000:ab:1f.7",
		"pci_10000_e1_00_0": "10000:e1:00.0",
	} {
		if a, ok := ParseNodeName(in); !ok || a.String() != want {
			t.Errorf("%s: got %s, %v, want %s", in, a, ok, want)
		}
	}
	for _, in := range []string{"", "pci_", "pci_0000_03_00", "pci_0000_03_00_8", "pci_03_00_0", "pci_0000_03_00_0_1", "0000_03_00_0", "usb_0000_03_00_0", "pci_0000:03:00.0"} {
		if a, ok := ParseNodeName(in); ok || a != (Address{}) {
			t.Errorf("%q: accepted as %s", in, a)
		}
	}
}
