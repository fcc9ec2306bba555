package uevent

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/pilebones/go-udev/netlink"
)

var (
	// ErrMalformed marks a message that is not of the kernel's form.
	ErrMalformed = errors.New("malformed uevent")
	// ErrUnknownAction marks a message of the right form whose action is none
	// that this program knows.
	ErrUnknownAction = errors.New("unknown uevent action")
)

// Parse reads one message of the form
//
//	ACTION@DEVPATH NUL KEY=VALUE NUL KEY=VALUE NUL …
//
// into ev, all but ev.At. Every field must end in NUL, the path must be
// absolute, and a key must not be empty; a path may hold an '@' (soc@0 on ARM)
// and a value an '='. Of a key that is there twice the last one counts. The
// error is an ErrMalformed or an ErrUnknownAction, and then ev holds nothing
// of use.
//
// A map in ev.Env is emptied and filled again. The strings are new and may be
// kept; raw may be overwritten.
func Parse(raw []byte, ev *Event) error {
	// The one copy: all keys and values are parts of it.
	header, rest, ok := strings.Cut(string(raw), "\x00")
	if !ok {
		return fmt.Errorf("%w: no NUL after the header", ErrMalformed)
	}
	if err := parseHeader(header, ev); err != nil {
		return err
	}
	return parseProperties(rest, ev)
}

func parseHeader(header string, ev *Event) error {
	// The first '@' ends the action, which has none; the path may have some.
	action, path, ok := strings.Cut(header, "@")
	if !ok {
		return fmt.Errorf("%w: no '@' in the header %q", ErrMalformed, header)
	}
	if !strings.HasPrefix(path, "/") {
		return fmt.Errorf("%w: device path %q is not absolute", ErrMalformed, path)
	}
	known, err := netlink.ParseKObjAction(action)
	if err != nil {
		return fmt.Errorf("%w: %q", ErrUnknownAction, action)
	}
	ev.Action, ev.KObj = known, path
	return nil
}

func parseProperties(rest string, ev *Event) error {
	if ev.Env == nil {
		ev.Env = make(map[string]string)
	}
	clear(ev.Env)
	ev.Seq = 0
	for rest != "" {
		field, after, ok := strings.Cut(rest, "\x00")
		if !ok {
			return fmt.Errorf("%w: no NUL after %q", ErrMalformed, field)
		}
		key, value, ok := strings.Cut(field, "=")
		if !ok || key == "" {
			return fmt.Errorf("%w: %q is not KEY=VALUE", ErrMalformed, field)
		}
		if key == "SEQNUM" {
			seq, err := strconv.ParseUint(value, 10, 64)
			if err != nil {
				return fmt.Errorf("%w: SEQNUM %q is not a number", ErrMalformed, value)
			}
			ev.Seq = seq
		}
		ev.Env[key] = value
		rest = after
	}
	return nil
}
