package main

import (
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vfio-hotplug/internal/vmtest/wire"
)

// TestMain makes of this program one that says what is in SAY to its
// NOTIFY_SOCKET.
func TestMain(m *testing.M) {
	if say := os.Getenv("SAY"); say != "" {
		conn, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
		if err != nil {
			panic(err)
		}
		if _, err := conn.Write([]byte(say)); err != nil {
			panic(err)
		}
		return
	}
	os.Exit(m.Run())
}

func TestRun(t *testing.T) {
	for name, test := range map[string]struct {
		ask  wire.Command
		want wire.Finished
	}{
		"output and exit code": {
			wire.Command{Argv: []string{"sh", "-c", "cat; echo bad >&2; exit 3"}, Stdin: []byte("in")},
			wire.Finished{Code: 3, Stdout: []byte("in"), Stderr: []byte("bad\n")},
		},
		"environment": {
			wire.Command{Argv: []string{"sh", "-c", "echo $X"}, Env: []string{"X=y"}},
			wire.Finished{Stdout: []byte("y\n")},
		},
		"a signal": {
			wire.Command{Argv: []string{"sh", "-c", "kill -TERM $$"}},
			wire.Finished{Code: -1, Signal: "terminated"},
		},
		"the time is over": {
			wire.Command{Argv: []string{"sh", "-c", "echo begun; exec sleep 1000"}, Timeout: 300 * time.Millisecond},
			wire.Finished{Code: -1, Signal: "killed", TimedOut: true, Stdout: []byte("begun\n")},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got wire.Finished
			if err := new(Agent).Run(test.ask, &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("finished (-want +got):\n%s", diff)
			}
		})
	}
	if err := new(Agent).Run(wire.Command{Argv: []string{"/no/such"}}, new(wire.Finished)); err == nil {
		t.Error("a program that is not there ran")
	}
}

// background starts a program and gives its number.
func background(t *testing.T, a *Agent, ask wire.Background) int {
	t.Helper()
	var reply wire.Started
	if err := a.Start(ask, &reply); err != nil {
		t.Fatal(err)
	}
	return reply.Process
}

func texts(lines []wire.Line) []string {
	var all []string
	for _, line := range lines {
		all = append(all, line.Stream+" "+line.Text)
	}
	return all
}

func TestLinesOfABackgroundProgram(t *testing.T) {
	a := new(Agent)
	n := background(t, a, wire.Background{Argv: []string{"sh", "-c", "echo one; echo two; cat /dev/null; exec sleep 1000"}})
	var reply wire.LinesReply
	if err := a.Lines(wire.Lines{Process: n, Match: "^two$", Timeout: time.Minute}, &reply); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"stdout one", "stdout two"}, texts(reply.Lines)); diff != "" || !reply.Found || reply.Ended != nil {
		t.Errorf("found %v, ended %v; lines (-want +got):\n%s", reply.Found, reply.Ended, diff)
	}
	if err := a.Kill(wire.Kill{Process: n, Signal: syscall.SIGKILL}, new(wire.Outcome)); err != nil {
		t.Fatal(err)
	}
	reply = wire.LinesReply{}
	if err := a.Lines(wire.Lines{Process: n, Since: 2, Match: "never", Timeout: time.Minute}, &reply); err != nil {
		t.Fatal(err)
	}
	if reply.Found || reply.Ended == nil || reply.Ended.Signal != "killed" {
		t.Errorf("after the kill: %+v", reply)
	}
}

func TestNotificationsAreLinesToo(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	a := new(Agent)
	n := background(t, a, wire.Background{Argv: []string{self}, Env: []string{"SAY=READY=1\nSTATUS=fine"}, Notify: true})
	var reply wire.LinesReply
	if err := a.Lines(wire.Lines{Process: n, Match: "STATUS", Timeout: time.Minute}, &reply); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"notify READY=1", "notify STATUS=fine"}, texts(reply.Lines)); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	var how wire.Finished
	if err := a.Wait(wire.Wait{Process: n, Timeout: time.Minute}, &how); err != nil {
		t.Fatal(err)
	}
	if how.Code != 0 {
		t.Errorf("ended with %+v", how)
	}
}

func TestAProgramThatWasNotStarted(t *testing.T) {
	err := new(Agent).Wait(wire.Wait{Process: 1}, new(wire.Finished))
	if err == nil || !strings.Contains(err.Error(), "no process number 1") {
		t.Errorf("error %v", err)
	}
}
