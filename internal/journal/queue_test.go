package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	systemd "github.com/coreos/go-systemd/v22/journal"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder is a journald that takes everything.
type recorder struct {
	mu      sync.Mutex
	entries []entry
}

func (r *recorder) send(message string, p systemd.Priority, fields map[string]string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries = append(r.entries, entry{message, p, fields})
	return nil
}

func (r *recorder) messages() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []string
	for _, e := range r.entries {
		all = append(all, e.message)
	}
	return all
}

// stalled is a journald that takes nothing until it is told to go on.
type stalled struct {
	recorder
	goOn chan struct{}
}

func (s *stalled) send(message string, p systemd.Priority, fields map[string]string) error {
	<-s.goOn
	return s.recorder.send(message, p, fields)
}

func TestAStalledJournaldNeverBlocksALoggerAndTheLossIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		journald := stalled{goOn: make(chan struct{})}
		queue := NewQueue(journald.send, "prog")
		log := slog.New(NewNative(queue, slog.LevelInfo, "prog"))

		log.Info("first")
		synctest.Wait() // the sender holds it now
		const beyond = 7
		for i := range queueEntries + beyond {
			log.Info(fmt.Sprint("later ", i))
		}
		if got := queue.Dropped(); got != beyond {
			t.Errorf("%d were dropped, want %d", got, beyond)
		}

		close(journald.goOn)
		synctest.Wait()
		got := journald.messages()
		if len(got) != 1+queueEntries+1 {
			t.Fatalf("%d entries were sent, want the first, %d that waited and one about the loss", len(got), queueEntries)
		}
		last := journald.entries[len(got)-1]
		if last.fields["DROPPED"] != "7" || last.fields["MESSAGE_ID"] != string(MessageDropped) ||
			!strings.HasPrefix(last.message, "7 journal entries were dropped") {
			t.Errorf("the last entry is %+v, want one that tells of 7 dropped", last)
		}
		if got := queue.Dropped(); got != 0 {
			t.Errorf("%d are still to be told, want 0", got)
		}
		if err := queue.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if got := len(journald.messages()); got != 1+queueEntries+1 {
			t.Errorf("the loss was told again: %d entries", got)
		}
	})
}

func TestTheQueueIsBoundedInBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		journald := stalled{goOn: make(chan struct{})}
		queue := NewQueue(journald.send, "prog")
		log := slog.New(NewNative(queue, slog.LevelInfo, "prog"))
		fat := strings.Repeat("x", maxValue)
		for range queueEntries {
			log.Info("m", "a", fat)
		}
		if held := queue.bytes.Load(); held > queueBytes || held < queueBytes/2 {
			t.Errorf("%d bytes wait, want at most %d and not much less", held, queueBytes)
		}
		if queue.Dropped() == 0 {
			t.Error("nothing was dropped")
		}
		close(journald.goOn)
		if err := queue.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if held := queue.bytes.Load(); held != 0 {
			t.Errorf("%d bytes are counted in an empty queue", held)
		}
	})
}

// Somebody logs whenever the sender has made room, so that the queue is never
// empty: the loss must be told all the same.
func TestTheLossIsToldUnderALoadThatDoesNotEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent recorder
		var log *slog.Logger
		told := 0
		full := make(chan struct{})
		send := func(message string, p systemd.Priority, fields map[string]string) error {
			<-full
			if fields["DROPPED"] != "" {
				told++
			}
			if told == 0 {
				log.Info("again")
				log.Info("and again")
			}
			return sent.send(message, p, fields)
		}
		queue := NewQueue(send, "prog")
		log = slog.New(NewNative(queue, slog.LevelInfo, "prog"))
		for range queueEntries + 2 {
			log.Info("start")
		}
		close(full)
		if err := queue.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if told == 0 {
			t.Error("the loss was never told")
		}
	})
}

func TestWhatJournaldRefusesIsCountedAndTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent recorder
		refuse := true
		send := func(message string, p systemd.Priority, fields map[string]string) error {
			if refuse {
				return errors.New("no such file or directory")
			}
			return sent.send(message, p, fields)
		}
		queue := NewQueue(send, "prog")
		log := slog.New(NewNative(queue, slog.LevelInfo, "prog"))
		log.Info("one")
		log.Info("two")
		synctest.Wait()
		if got := queue.Dropped(); got != 2 {
			t.Errorf("%d were dropped, want 2", got)
		}
		refuse = false
		log.Info("three")
		if err := queue.Close(t.Context()); err != nil {
			t.Error(err)
		}
		got := sent.messages()
		if len(got) != 2 || got[0] != "three" || !strings.HasPrefix(got[1], "2 journal entries") {
			t.Errorf("sent %q, want three and the loss of two", got)
		}
	})
}

func TestCloseIsBoundedWhenJournaldStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		journald := stalled{goOn: make(chan struct{})}
		queue := NewQueue(journald.send, "prog")
		log := slog.New(NewNative(queue, slog.LevelInfo, "prog"))
		for range 4 {
			log.Info("m")
		}
		synctest.Wait()

		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		start := time.Now()
		err := queue.Close(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "last 3 entries") {
			t.Errorf("Close = %v, want a deadline and the 3 entries that wait", err)
		}
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("Close took %v, want 2s", took)
		}

		log.Info("after the end")
		if got := queue.Dropped(); got != 1 {
			t.Errorf("%d were dropped after Close, want 1", got)
		}
		close(journald.goOn)
		if err := queue.Close(t.Context()); err != nil {
			t.Errorf("Close once journald goes on = %v", err)
		}
	})
}

func TestManyLoggersAndACloseBesideThem(t *testing.T) {
	var sent recorder
	queue := NewQueue(sent.send, "prog")
	log := slog.New(NewNative(queue, slog.LevelInfo, "prog"))
	const loggers, each = 8, 50
	var all sync.WaitGroup
	for range loggers {
		all.Go(func() {
			for range each {
				log.Info("m")
			}
		})
	}
	all.Go(func() {
		if err := queue.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	all.Wait()
	accounted := int(queue.Dropped())
	for _, e := range sent.entries {
		if e.message == "m" {
			accounted++
			continue
		}
		dropped, err := strconv.Atoi(e.fields["DROPPED"])
		if err != nil {
			t.Fatal(err)
		}
		accounted += dropped
	}
	if accounted != loggers*each {
		t.Errorf("%d entries are accounted for, want %d", accounted, loggers*each)
	}
}
