package policy

import "fmt"

// ParseTakeover reads the word that String gives.
func ParseTakeover(word string) (Takeover, error) {
	for _, t := range []Takeover{Blank, Never, Idle} {
		if word == t.String() {
			return t, nil
		}
	}
	return Blank, fmt.Errorf("%q is not a takeover: want never, blank or idle", word)
}
