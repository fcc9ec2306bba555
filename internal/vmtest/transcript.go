package vmtest

import (
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"
)

// A transcript keeps what host and agent said to each other.
type transcript struct {
	mu   sync.Mutex
	file *os.File
}

func newTranscript(path string) (*transcript, error) {
	file, err := os.Create(path)
	return &transcript{file: file}, err
}

// longest is how many bytes of a question or an answer are kept.
const longest = 2000

func (t *transcript) record(began time.Time, method string, args, answer any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.file, "%s %6dms %s %s → %s\n", began.Format("15:04:05.000"), time.Since(began).Milliseconds(), method, brief(args), brief(answer))
}

func (t *transcript) note(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.file, format+"\n", args...)
}

func brief(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	if len(text) > longest {
		return string(text[:longest]) + "…"
	}
	return string(text)
}

func (t *transcript) Close() error { return t.file.Close() }
