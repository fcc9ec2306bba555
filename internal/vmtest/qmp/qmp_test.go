package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// monitor answers as QEMU does: each command it gets with what answer says.
func monitor(conn net.Conn, answer func(command string) []string) {
	fmt.Fprintln(conn, `{"QMP": {"version": {}, "capabilities": []}}`)
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		var request struct {
			Execute string
			ID      int
		}
		if json.Unmarshal(lines.Bytes(), &request) != nil {
			return
		}
		for _, line := range answer(request.Execute) {
			fmt.Fprintln(conn, strings.ReplaceAll(line, "ID", strconv.Itoa(request.ID)))
		}
	}
}

const done = `{"return": {}, "id": ID}`

func dial(t *testing.T, answer func(string) []string) *Conn {
	t.Helper()
	near, far := net.Pipe()
	go monitor(far, answer)
	c, err := New(t.Context(), near)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); far.Close() })
	return c
}

func TestExecute(t *testing.T) {
	c := dial(t, func(command string) []string {
		switch command {
		case "query":
			return []string{`{"return": {"name": "x"}, "id": ID}`}
		case "bad":
			return []string{`{"error": {"class": "DeviceNotFound", "desc": "no such"}, "id": ID}`}
		}
		return []string{done}
	})
	var got struct{ Name string }
	if err := c.Execute(t.Context(), "query", nil, &got); err != nil || got.Name != "x" {
		t.Errorf("query: %v, %v", got, err)
	}
	err := c.Execute(t.Context(), "bad", map[string]any{"id": "d"}, nil)
	want := &Error{Command: "bad", Class: "DeviceNotFound", Desc: "no such"}
	var refusal *Error
	if !errors.As(err, &refusal) || *refusal != *want {
		t.Errorf("bad: %v, want %v", err, want)
	}
}

func TestWaitSeesEventsSinceTheMarkOnly(t *testing.T) {
	c := dial(t, func(command string) []string {
		if command == "qmp_capabilities" {
			return []string{done}
		}
		return []string{`{"event": "` + command + `", "data": {"device": "d"}}`, done}
	})
	execute := func(command string) {
		if err := c.Execute(t.Context(), command, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	execute("OLD")
	mark := c.Mark()
	execute("NEW")
	got, err := c.Wait(t.Context(), mark, func(Event) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("NEW", got.Name); diff != "" {
		t.Errorf("event (-want +got):\n%s", diff)
	}
}

func TestAWaitEndsWithItsContextOrWithQEMU(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		go monitor(far, func(command string) []string {
			if command == "hang" {
				return nil
			}
			return []string{done}
		})
		c, err := New(t.Context(), near)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := c.Execute(ctx, "hang", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a command without an answer: %v", err)
		}
		if _, err := c.Wait(ctx, 0, func(Event) bool { return false }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a wait for no event: %v", err)
		}
		time.AfterFunc(time.Second, func() { far.Close() })
		if _, err := c.Wait(t.Context(), 0, func(Event) bool { return false }); !errors.Is(err, ErrClosed) {
			t.Errorf("a wait when QEMU ends: %v", err)
		}
		if err := c.Execute(t.Context(), "hang", nil, nil); err == nil {
			t.Error("a command after the end went well")
		}
	})
}
