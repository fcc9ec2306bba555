package vmtest

import (
	"errors"
	"testing"
)

func TestAnAnswerIsKeptForTheLifeOfTheMachine(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	for _, c := range []struct {
		about string
		yes   bool
		err   error
		asked int
	}{
		{"works", true, nil, 1},
		{"fails", false, nil, 1},
		{"cannot be asked now", false, errors.New("busy"), 2},
	} {
		asked := 0
		for range 2 {
			got, err := keptAnswer("question", c.about, func() (bool, error) { asked++; return c.yes, c.err })
			if got != c.yes || !errors.Is(err, c.err) {
				t.Errorf("%s: %v, %v", c.about, got, err)
			}
		}
		if asked != c.asked {
			t.Errorf("%s: asked %d times, want %d", c.about, asked, c.asked)
		}
	}
}
