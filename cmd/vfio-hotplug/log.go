package main

import (
	"context"
	"log/slog"
	"time"

	"vfio-hotplug/internal/journal"
)

// openLog opens the log of this process. flush writes what still waits, for a
// second at most.
func openLog(level slog.Level, format journal.Format) (log *slog.Logger, flush func()) {
	handler, wait := journal.Open(journal.Options{Format: format, Level: level, Identifier: "vfio-hotplug"})
	return slog.New(handler), func() {
		bounded, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = wait(bounded)
	}
}
