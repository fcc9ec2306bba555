package uevent

import (
	"bytes"
	"errors"
	"maps"
	"strconv"
	"strings"
	"testing"

	"github.com/pilebones/go-udev/netlink"
)

// FuzzParse holds Parse against go-udev's parser. The two may differ only
// where goUdevIsRight or kernelForm says so.
func FuzzParse(f *testing.F) {
	f.Fuzz(func(t *testing.T, raw []byte) {
		before := bytes.Clone(raw)
		var ev Event
		err := Parse(raw, &ev)
		if !bytes.Equal(raw, before) {
			t.Fatal("Parse changed the message")
		}
		if err != nil && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUnknownAction) {
			t.Fatalf("error of no kind: %v", err)
		}
		checkReuse(t, raw, ev, err)
		if err == nil {
			checkWhole(t, raw, ev)
		}
		if !goUdevIsRight(raw) {
			return
		}
		theirs, theirErr := netlink.ParseUEvent(raw)
		switch {
		case err == nil && theirErr != nil:
			t.Fatalf("we accept what go-udev refuses: %v", theirErr)
		case err != nil && theirErr == nil && kernelForm(*theirs, raw):
			t.Fatalf("we refuse what go-udev accepts: %v", err)
		case err == nil:
			if equal, why := ev.Equal(*theirs); !equal {
				t.Fatalf("we differ from go-udev: %v", why)
			}
		}
	})
}

// goUdevIsRight reports whether go-udev's verdict on raw counts. It panics on a
// message without NUL, takes udevd's messages too, and refuses an '@' in a
// path and an '=' in a value.
func goUdevIsRight(raw []byte) bool {
	fields := strings.Split(string(raw), "\x00")
	if len(fields) < 2 || fields[0] == "libudev" || strings.Count(fields[0], "@") > 1 {
		return false
	}
	for _, field := range fields[1:] {
		if strings.Count(field, "=") > 1 {
			return false
		}
	}
	return true
}

// kernelForm reports whether raw, which go-udev has accepted as ev, also has
// what only we ask for: a NUL at the end, an absolute path, no empty key, and
// only numbers in SEQNUM.
func kernelForm(ev netlink.UEvent, raw []byte) bool {
	for field := range strings.SplitSeq(string(raw), "\x00") {
		if number, ok := strings.CutPrefix(field, "SEQNUM="); ok {
			if _, err := strconv.ParseUint(number, 10, 64); err != nil {
				return false
			}
		}
	}
	_, emptyKey := ev.Env[""]
	return bytes.HasSuffix(raw, []byte{0}) && strings.HasPrefix(ev.KObj, "/") && !emptyKey
}

// checkReuse parses raw into an event that is in use already: the answer must
// be that of a new one.
func checkReuse(t *testing.T, raw []byte, want Event, wantErr error) {
	used := Event{Seq: 99}
	used.Env = map[string]string{"DRIVER": "nvme", "": "x"}
	err := Parse(raw, &used)
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("a used event gives %v, a new one %v", err, wantErr)
	}
	if err == nil && (used.Action != want.Action || used.KObj != want.KObj || used.Seq != want.Seq || !maps.Equal(used.Env, want.Env)) {
		t.Fatalf("a used event gives %q, a new one %q", used, want)
	}
}

// checkWhole compares ev with every field of raw, read from the last to the
// first because the last of a key counts.
func checkWhole(t *testing.T, raw []byte, ev Event) {
	fields := strings.Split(strings.TrimSuffix(string(raw), "\x00"), "\x00")
	if header := string(ev.Action) + "@" + ev.KObj; fields[0] != header {
		t.Fatalf("header %q became %q", fields[0], header)
	}
	left := maps.Clone(ev.Env)
	seen := make(map[string]bool)
	for i := len(fields) - 1; i > 0; i-- {
		key, value, _ := strings.Cut(fields[i], "=")
		if got, ok := left[key]; !seen[key] && (!ok || got != value) {
			t.Fatalf("field %q became %q", fields[i], got)
		}
		seen[key] = true
		delete(left, key)
	}
	if len(left) > 0 {
		t.Fatalf("properties from nowhere: %q", left)
	}
}
