package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

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

// outlastReaders has this process go on when nobody reads its lines any more: a
// Ctrl-C on "daemon 2>&1 | tee" ends tee too. Otherwise the next line would end
// the process, with the guard armed or half of the devices done.
func outlastReaders() {
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
}
