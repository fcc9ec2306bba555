package journal

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	systemd "github.com/coreos/go-systemd/v22/journal"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const (
	journaldSocket = "/run/systemd/journal/socket"
	inNamespace    = "JOURNAL_TEST_IN_NAMESPACE"
)

// withOwnJournald runs the test again in a mount namespace with an empty /run,
// where it may be journald: go-systemd's socket has a fixed path. The inner
// run gets the socket.
func withOwnJournald(t *testing.T, inner func(*testing.T, *net.UnixConn)) {
	if os.Getenv(inNamespace) != "" {
		inner(t, listenAsJournald(t))
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) {
		t.Skipf("this machine forbids user namespaces (kernel.unprivileged_userns_clone, user.max_user_namespaces): %v", err)
	}
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Errorf("in the namespace: %v\n%s", err, out)
	}
}

func listenAsJournald(t *testing.T) *net.UnixConn {
	t.Helper()
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
		t.Fatalf("mount a private /run: %v", err)
	}
	if err := os.MkdirAll("/run/systemd/journal", 0o755); err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: journaldSocket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestWhatJournaldReceives(t *testing.T) {
	withOwnJournald(t, func(t *testing.T, conn *net.UnixConn) {
		handler, closeLog := Open(Options{Format: Fields, Identifier: "prog"})
		slog.New(handler).Warn("left 0000:01:00.0",
			MessageLeft.Attr(), KeyReason, "two\nlines", "_weird key", 1, KeyLatency, time.Millisecond)
		if err := closeLog(t.Context()); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{
			"MESSAGE":           "left 0000:01:00.0",
			"MESSAGE_ID":        string(MessageLeft),
			"PRIORITY":          "4",
			"SYSLOG_IDENTIFIER": "prog",
			"REASON":            "two\nlines",
			"WEIRD_KEY":         "1",
			"LATENCY_USEC":      "1000",
		}
		if diff := cmp.Diff(want, receive(t, conn)); diff != "" {
			t.Errorf("entry (-want +got):\n%s", diff)
		}
	})
}

// The real journal.Send waits for ever once the socket of a stalled journald
// is full: the trap that the queue is for.
func TestARealSendThatBlocksBlocksNoLogger(t *testing.T) {
	withOwnJournald(t, func(t *testing.T, conn *net.UnixConn) {
		queue := NewQueue(systemd.Send, "prog")
		log := slog.New(NewNative(queue, slog.LevelInfo, "prog"))
		for queue.Dropped() == 0 {
			log.Info("m")
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := queue.Close(ended); !errors.Is(err, context.Canceled) {
			t.Errorf("Close = %v while journald stalls, want %v", err, context.Canceled)
		}
		for {
			if receive(t, conn)["MESSAGE_ID"] == string(MessageDropped) {
				break
			}
		}
		if err := queue.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestWithoutJournaldFieldsBecomeLines(t *testing.T) {
	withOwnJournald(t, func(t *testing.T, conn *net.UnixConn) {
		conn.Close()
		handler, closeLog := Open(Options{Format: Fields})
		if _, ok := handler.(*Text); !ok {
			t.Errorf("got a %T, want a *Text", handler)
		}
		if err := closeLog(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestAutoFollowsStderr(t *testing.T) {
	withOwnJournald(t, func(t *testing.T, conn *net.UnixConn) {
		info, err := os.Stderr.Stat()
		if err != nil {
			t.Fatal(err)
		}
		stat := info.Sys().(*syscall.Stat_t)
		stderr := strconv.FormatUint(stat.Dev, 10) + ":" + strconv.FormatUint(stat.Ino, 10)
		tests := []struct {
			stream string
			format Format
			native bool
		}{
			{stderr, Auto, true},
			{stderr, Lines, false},
			{"", Auto, false},
			{"1:1", Auto, false},
			{"not a stream", Auto, false},
			{"", Fields, true},
		}
		for _, tt := range tests {
			t.Setenv("JOURNAL_STREAM", tt.stream)
			handler, closeLog := Open(Options{Format: tt.format})
			if _, native := handler.(*Native); native != tt.native {
				t.Errorf("JOURNAL_STREAM=%q, format %d: got a %T", tt.stream, tt.format, handler)
			}
			if err := closeLog(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
}

// receive takes one entry in journald's native protocol
// (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/).
func receive(t *testing.T, conn *net.UnixConn) map[string]string {
	t.Helper()
	buf := make([]byte, 1<<16)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	entry := map[string]string{}
	for rest := string(buf[:n]); rest != ""; {
		var line, value string
		line, rest, _ = strings.Cut(rest, "\n")
		name, value, plain := strings.Cut(line, "=")
		if !plain {
			size := binary.LittleEndian.Uint64([]byte(rest[:8]))
			value, rest = rest[8:8+size], rest[8+size+1:]
		}
		entry[name] = value
	}
	return entry
}
