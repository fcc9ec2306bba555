package daemon

import (
	"sync"
	"testing"
	"testing/synctest"

	"vfio-hotplug/internal/operate"
)

// TestThoseWhoAskAtTheSameTimeShareASurvey: while one survey is under way, any
// number of callers wait for one more, which begins after they have asked.
func TestThoseWhoAskAtTheSameTimeShareASurvey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s surveys
		var looks int // one at a time: the race detector sees a second
		release := make(chan struct{})
		look := func() ([]operate.Line, error) {
			looks++
			lines := make([]operate.Line, looks)
			<-release
			return lines, nil
		}
		ask := func(want int) func() {
			return func() {
				if lines, err := s.share(look); err != nil || len(lines) != want {
					t.Errorf("survey number %d, %v, want number %d", len(lines), err, want)
				}
			}
		}
		var asking sync.WaitGroup
		asking.Go(ask(1))
		synctest.Wait()
		for range 100 {
			asking.Go(ask(2))
		}
		synctest.Wait()
		release <- struct{}{}
		synctest.Wait()
		asking.Go(ask(3))
		synctest.Wait()
		close(release)
		asking.Wait()
		if looks != 3 {
			t.Errorf("%d surveys for three rounds of questions", looks)
		}
	})
}
