package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestListenMakesASocketForEverybody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := fs.ModeSocket | 0o666; info.Mode() != want {
		t.Errorf("mode %v, want %v", info.Mode(), want)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Close: %v, want the socket gone", err)
	}
	again, err := Listen(path)
	if err != nil {
		t.Fatalf("listen again: %v", err)
	}
	again.Close()
}

func TestListenReplacesWhatAKilledDaemonLeft(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	abandon(t, path)
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestListenLeavesWhatIsNotItsOwn(t *testing.T) {
	tests := []struct {
		name string
		make func(t *testing.T, path string)
		want string
	}{
		{"another daemon", func(t *testing.T, path string) {
			l, err := Listen(path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		}, "another daemon listens"},
		{"somebody who listens without our lock", func(t *testing.T, path string) {
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		}, "another daemon listens"},
		{"a file", func(t *testing.T, path string) {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "not a socket"},
		{"a link", func(t *testing.T, path string) {
			abandon(t, path+".target")
			if err := os.Symlink(path+".target", path); err != nil {
				t.Fatal(err)
			}
		}, "not a socket"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "socket")
			tt.make(t, path)
			before, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			l, err := Listen(path)
			if err == nil {
				l.Close()
				t.Fatal("Listen took the place")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Listen = %v, want %q", err, tt.want)
			}
			if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) {
				t.Errorf("what was there is gone: %v", err)
			}
		})
	}
}

func TestListenDoesNotMakeTheDirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "missing", "socket")
	if _, err := Listen(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Listen = %v, want %v", err, fs.ErrNotExist)
	}
}

func TestOfManyDaemonsAtOnceOneListens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	abandon(t, path)
	const daemons = 16
	listeners := make(chan net.Listener, daemons)
	var all sync.WaitGroup
	for range daemons {
		all.Go(func() {
			l, err := Listen(path)
			if err == nil {
				listeners <- l
			} else if !errors.Is(err, ErrInUse) {
				t.Errorf("Listen = %v, want %v", err, ErrInUse)
			}
		})
	}
	all.Wait()
	if got := len(listeners); got != 1 {
		t.Errorf("%d daemons listen, want 1", got)
	}
	for range len(listeners) {
		(<-listeners).Close()
	}
}

func TestDialWithoutADaemon(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "socket")
	stale := filepath.Join(t.TempDir(), "socket")
	abandon(t, stale)
	for name, path := range map[string]string{"no socket": missing, "nobody listens": stale} {
		if _, err := Dial(path); !errors.Is(err, ErrNoDaemon) {
			t.Errorf("%s: Dial = %v, want %v", name, err, ErrNoDaemon)
		}
	}
	if _, err := Dial(filepath.Join(missing, strings.Repeat("x", 200))); err == nil || errors.Is(err, ErrNoDaemon) {
		t.Errorf("a path that cannot be: Dial = %v, want another error than %v", err, ErrNoDaemon)
	}
}

// The whole way, over a real socket: the kernel says who calls.
func TestManyClientsOverARealSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		server := &Server{Handlers: harmless()}
		served <- server.Serve(ctx, l)
	}()

	const clients, calls = 40, 25
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			client, err := Dial(path)
			if err != nil {
				t.Error(err)
				return
			}
			defer client.Close()
			for j := range calls {
				want := fmt.Sprintf("%d of %d", j, i)
				var got struct{ Say string }
				if err := client.Call(t.Context(), Interface+".Echo", map[string]string{"say": want}, &got); err != nil || got.Say != want {
					t.Errorf("got %q and %v, want %q", got.Say, err, want)
					return
				}
			}
			var who Peer
			if err := client.Call(t.Context(), Interface+".Who", nil, &who); err != nil {
				t.Error(err)
			}
			if me := (Peer{PID: int32(os.Getpid()), UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}); who != me {
				t.Errorf("the daemon saw %+v, want %+v", who, me)
			}
		})
	}
	all.Wait()
	stop()
	if err := <-served; err != nil {
		t.Errorf("Serve = %v", err)
	}
	if _, err := Dial(path); !errors.Is(err, ErrNoDaemon) {
		t.Errorf("Dial after the end = %v, want %v", err, ErrNoDaemon)
	}
}

// abandon leaves a socket as a daemon does that was killed.
func abandon(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}
