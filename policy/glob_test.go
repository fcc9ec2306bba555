package policy

import (
	"regexp"
	"strings"
	"testing"

	"vfio-hotplug/internal/pci"
)

func FuzzGlob(f *testing.F) {
	for _, s := range [][2]string{{"", ""}, {"*", ""}, {"?", ""}, {"a*b*c", "a-b-b-c"}, {"*a", "aaab"}, {"**?", "x"}, {"0000:0?:*", "0000:01:00.0"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, pattern, text string) {
		if len(pattern) > 50 || len(text) > 50 {
			return
		}
		// The same as a regular expression, over bytes as Latin-1 so that ? is one byte.
		latin := func(s string) string {
			var b strings.Builder
			for _, c := range []byte(s) {
				b.WriteRune(rune(c))
			}
			return b.String()
		}
		expr := regexp.QuoteMeta(latin(pattern))
		expr = strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(expr)
		want := regexp.MustCompile(`(?s)^` + expr + `$`).MatchString(latin(text))
		if got := glob(pattern, text); got != want {
			t.Errorf("glob(%q, %q) is %v, the expression %s says %v", pattern, text, got, expr, want)
		}
	})
}

// A pattern that no address matches is refused. A ? or * may also stand for a
// colon or a dot.
func TestPatternsThatMatchSomeAddress(t *testing.T) {
	for pattern, want := range map[string]bool{
		"*":                    true,
		"0000:01:00.0":         true,
		"????:??:??.?":         true,
		"?????:??:??.?":        true,
		"????????:??:??.?":     true,
		"?????????:??:??.?":    false, // no domain has nine digits
		"???:??:??.?":          false, // nor three
		"0????:*":              false, // nor five with a leading zero
		"8???????:??:??.?":     false, // the kernel's domain is an int
		"7???????:??:??.?":     true,
		"*.7":                  true,
		"*.8":                  false,
		"*:1f.?":               true,
		"*:2?.?":               false,
		"*:2?:*":               true,
		"*:*:*:*":              false,
		"*.*.*":                false,
		"*:*.*":                true,
		"0*0":                  true,
		"*0000:01:00.0*":       true,
		"0000:01:00.0?":        false,
		"0000:01:00.":          false,
		"1*2*3*4*5*6*7*8*9*:*": true,
	} {
		if got := matchesSomeAddress(pattern); got != want {
			t.Errorf("%s: got %v, want %v", pattern, got, want)
		}
	}
}

// An address with some of its characters replaced by signs is a pattern that
// matches it, in either case.
func TestPropertyPatternsOfAnAddressMatchIt(t *testing.T) {
	rounds(t, func(t *testing.T, w world) {
		a := pci.Address{
			Domain:   w.Uint32() >> (1 + w.IntN(31)),
			Bus:      uint8(w.Uint32()),
			Device:   uint8(w.IntN(32)),
			Function: uint8(w.IntN(8)),
		}
		text := a.String()
		if w.IntN(2) == 0 {
			text = strings.ToUpper(text)
		}
		var pattern strings.Builder
		for i := range len(text) {
			switch w.IntN(8) {
			case 0:
				pattern.WriteByte('?')
			case 1:
				pattern.WriteByte('*')
			case 2:
				pattern.WriteString(text[i:i+1] + "*")
			default:
				pattern.WriteByte(text[i])
			}
		}
		g, err := parseAddressGlob(pattern.String())
		if err != nil || !anyAddress([]addressGlob{g}, a) {
			t.Errorf("%s does not match %s: %+v, %v", pattern.String(), a, g, err)
		}
	})
}
