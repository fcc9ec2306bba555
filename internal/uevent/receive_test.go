package uevent

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pilebones/go-udev/netlink"
	"golang.org/x/sys/unix"
)

func TestReceiveHandsOutKernelEvents(t *testing.T) {
	send, conn := newSender(t), listen(t)
	path := "/devices/" + t.Name()
	before := time.Now()
	send.kernel(event("add", path, "SUBSYSTEM=pci", "PCI_SLOT_NAME=0000:01:00.0"))

	var ev Event
	receive(t, conn, path, &ev)
	if ev.Action != netlink.ADD || ev.KObj != path {
		t.Errorf("got %s@%s, want add@%s", ev.Action, ev.KObj, path)
	}
	if ev.At.Before(before) || ev.At.After(time.Now()) {
		t.Errorf("At = %v is not between send and receipt", ev.At)
	}
	if seq := strconv.FormatUint(ev.Seq, 10); ev.Seq == 0 || ev.Env["SEQNUM"] != seq {
		t.Errorf("Seq = %d, Env[SEQNUM] = %q: want the kernel's number in both", ev.Seq, ev.Env["SEQNUM"])
	}
	delete(ev.Env, "SEQNUM")
	want := map[string]string{"ACTION": "add", "DEVPATH": path, "SUBSYSTEM": "pci", "PCI_SLOT_NAME": "0000:01:00.0"}
	if !maps.Equal(ev.Env, want) {
		t.Errorf("Env = %v, want %v", ev.Env, want)
	}
}

func TestReceiveKeepsTheOrder(t *testing.T) {
	send, conn := newSender(t), listen(t)
	base := "/devices/" + t.Name()
	for i := range 100 {
		send.kernel(event("change", fmt.Sprintf("%s/%d", base, i)))
	}
	var ev Event
	var last uint64
	for i := range 100 {
		receive(t, conn, base, &ev)
		if want := fmt.Sprintf("%s/%d", base, i); ev.KObj != want {
			t.Fatalf("event %d is of %s, want %s", i, ev.KObj, want)
		}
		if ev.Seq <= last {
			t.Fatalf("event %d has number %d after %d", i, ev.Seq, last)
		}
		last = ev.Seq
	}
}

func TestReceiveLeavesNothingOfThePreviousEvent(t *testing.T) {
	send, conn := newSender(t), listen(t)
	base := "/devices/" + t.Name()
	send.kernel(event("bind", base+"/first", "DRIVER=vfio-pci"))
	send.kernel(event("unbind", base+"/second"))

	var ev Event
	receive(t, conn, base, &ev)
	if ev.Env["DRIVER"] != "vfio-pci" {
		t.Fatalf("first Env = %v", ev.Env)
	}
	receive(t, conn, base, &ev)
	if driver, ok := ev.Env["DRIVER"]; ok || ev.Action != netlink.UNBIND {
		t.Errorf("second event is %s with DRIVER %q, want unbind with none", ev.Action, driver)
	}
}

func TestReceiveDropsAndCounts(t *testing.T) {
	const path = "/devices/forged"
	forged := event("add", path, "SEQNUM=1")
	tests := map[string]struct {
		send func(t *testing.T, s *sender, c *Conn)
		want Dropped
	}{
		"a multicast of a process": {
			func(_ *testing.T, s *sender, _ *Conn) { s.multicast(forged) },
			Dropped{Foreign: 1},
		},
		"a message from a process to us": {
			func(_ *testing.T, s *sender, c *Conn) { s.unicast(c, forged) },
			Dropped{Foreign: 1},
		},
		"a lone NUL from a process": {
			func(_ *testing.T, s *sender, _ *Conn) { s.multicast("\x00") },
			Dropped{Foreign: 1},
		},
		"64 KiB from a process": {
			func(_ *testing.T, s *sender, _ *Conn) {
				s.multicast(event("add", path, "X="+strings.Repeat("x", 64<<10)))
			},
			Dropped{Foreign: 1},
		},
		"a kernel message on behalf of another user": {
			func(t *testing.T, s *sender, _ *Conn) {
				const nobody = 65534
				needUser(t, nobody)
				s.kernelAs(nobody, event("add", path))
			},
			Dropped{Foreign: 1},
		},
		"a kernel message longer than our buffer": {
			func(_ *testing.T, s *sender, c *Conn) {
				c.msg.iov.SetLen(256)
				s.kernel(event("add", path, "X="+strings.Repeat("x", 1000)))
			},
			Dropped{Truncated: 1},
		},
		"a kernel message with a field that is no property": {
			func(_ *testing.T, s *sender, _ *Conn) { s.kernel(event("add", path, "DRIVER")) },
			Dropped{Malformed: 1},
		},
		"a kernel message without a header": {
			func(_ *testing.T, s *sender, _ *Conn) { s.kernel("DRIVER=nvme\x00") },
			Dropped{Malformed: 1},
		},
		"an action of a later kernel": {
			func(_ *testing.T, s *sender, _ *Conn) { s.kernel(event("attest", path)) },
			Dropped{UnknownAction: 1},
		},
		"several": {
			func(_ *testing.T, s *sender, _ *Conn) {
				s.multicast(forged)
				s.kernel("\x00")
				s.multicast(forged)
			},
			Dropped{Foreign: 2, Malformed: 1},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			send, conn := newSender(t), listen(t)
			test.send(t, send, conn)
			send.kernel(event("add", "/devices/true"))

			var ev Event
			receive(t, conn, "/devices/", &ev)
			if ev.KObj != "/devices/true" {
				t.Errorf("received %s@%s, want it dropped", ev.Action, ev.KObj)
			}
			if got := conn.Dropped(); got != test.want {
				t.Errorf("Dropped() = %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestReceiveReportsAnOverrunOnceAndGoesOn(t *testing.T) {
	send, conn := newSender(t), listen(t)
	base := "/devices/" + t.Name()
	overrun(t, send, conn, base)

	var ev Event
	if err := receiveAny(t, conn, &ev); !errors.Is(err, ErrOverrun) {
		t.Fatalf("Receive = %v after a full buffer, want ErrOverrun", err)
	}
	if n := conn.Dropped().Overrun; n == 0 {
		t.Error("Dropped().Overrun = 0, want the events that were queued before the loss")
	}
	// A queue that is not drained by now would lose this one without a word.
	send.kernel(event("add", base+"/after"))
	receive(t, conn, base, &ev)
	if ev.KObj != base+"/after" {
		t.Errorf("received %s, want the event after the overrun", ev.KObj)
	}
}

func TestReceiveReportsEachOverrun(t *testing.T) {
	send, conn := newSender(t), listen(t)
	var ev Event
	for i := range 3 {
		overrun(t, send, conn, "/devices/"+t.Name())
		if err := receiveAny(t, conn, &ev); !errors.Is(err, ErrOverrun) {
			t.Fatalf("overrun %d: Receive = %v, want ErrOverrun", i, err)
		}
	}
}

func TestReceiveAllocatesNothingForAForeignEvent(t *testing.T) {
	send, conn := newSender(t), listen(t)
	const runs = 1000
	for range runs + 1 { // AllocsPerRun runs once more to warm up
		send.multicast(pciAdd)
	}
	var ev Event
	allocs := testing.AllocsPerRun(runs, func() {
		if err := conn.raw.Read(conn.read); err != nil {
			t.Fatal(err)
		}
		if done, err := conn.take(&ev); done {
			t.Fatalf("foreign event was handed out: %v, %v", ev, err)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations for a foreign event, want none", allocs)
	}
	if got, want := conn.Dropped(), (Dropped{Foreign: runs + 1}); got != want {
		t.Errorf("Dropped() = %+v, want %+v", got, want)
	}
}

func TestReceiveAllocatesOnceForAnEvent(t *testing.T) {
	send, conn := newSender(t), listen(t)
	const runs = 1000
	for range runs + 1 {
		send.kernel(strings.TrimSuffix(pciAdd, "SEQNUM=4021\x00"))
	}
	var ev Event
	allocs := testing.AllocsPerRun(runs, func() {
		if err := conn.Receive(&ev); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > 1 {
		t.Errorf("%v allocations for an event, want at most 1", allocs)
	}
}

// overrun sends events to conn until its buffer, made as small as the kernel
// allows, has lost some.
func overrun(t *testing.T, send *sender, conn *Conn, base string) {
	t.Helper()
	control(t, conn, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1)
	})
	for i := range 50 {
		send.kernel(event("add", fmt.Sprintf("%s/%d", base, i)))
	}
}

// receive takes the next event whose path begins with prefix. A namespace of
// root's also gets what the machine's own devices send: that is passed over.
func receive(t testing.TB, conn *Conn, prefix string, ev *Event) {
	t.Helper()
	for {
		if err := receiveAny(t, conn, ev); err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(ev.KObj, prefix) {
			return
		}
	}
}

// receiveAny is Receive, but a test that waits in vain fails by it.
func receiveAny(t testing.TB, conn *Conn, ev *Event) error {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return conn.Receive(ev)
}

// listen opens a Conn that is closed with the test.
func listen(tb testing.TB) *Conn {
	tb.Helper()
	conn, err := Listen()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := conn.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			tb.Error(err)
		}
	})
	return conn
}

// needUser skips a test that speaks for the user uid where there is no such.
func needUser(t *testing.T, uid int) {
	t.Helper()
	file, err := os.Open("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for {
		var inside, outside, count int
		if _, err := fmt.Fscanln(file, &inside, &outside, &count); err != nil {
			t.Skipf("user %d is not in this user namespace (/proc/self/uid_map)", uid)
		}
		if inside <= uid && uid < inside+count {
			return
		}
	}
}
