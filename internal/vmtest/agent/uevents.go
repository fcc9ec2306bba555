package main

import (
	"bytes"
	"maps"
	"path"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/vmtest/wire"
)

// uevents records every uevent that the kernel sends, from before the first
// module is loaded.
type uevents struct {
	journal[wire.Uevent]
	lost atomic.Int64
}

// listenUevents opens the kernel's socket and records in the background.
func listenUevents() (*uevents, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20); err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		return nil, err
	}
	u := &uevents{}
	go u.record(fd)
	return u, nil
}

func (u *uevents) record(fd int) {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		now := monotonic()
		switch sender, ok := from.(*unix.SockaddrNetlink); {
		case err == unix.ENOBUFS:
			u.lost.Add(1)
		case err == unix.EINTR:
		case err != nil:
			u.close()
			return
		case ok && sender.Pid == 0:
			event := parseUevent(buf[:n])
			event.Time = now
			u.add(event)
		}
	}
}

// parseUevent reads "add@/devices/…", then KEY=value, each with a NUL behind
// (lib/kobject_uevent.c).
func parseUevent(message []byte) wire.Uevent {
	fields := bytes.Split(bytes.TrimSuffix(message, []byte{0}), []byte{0})
	action, devpath, _ := strings.Cut(string(fields[0]), "@")
	event := wire.Uevent{Action: action, Devpath: devpath, Env: map[string]string{}}
	for _, field := range fields[1:] {
		key, value, _ := strings.Cut(string(field), "=")
		event.Env[key] = value
	}
	return event
}

func matches(m wire.Match, event wire.Uevent) bool {
	if m.Action != "" && m.Action != event.Action || m.Subsystem != "" && m.Subsystem != event.Env["SUBSYSTEM"] {
		return false
	}
	if m.Devpath != "" {
		if ok, err := path.Match(m.Devpath, path.Base(event.Devpath)); err != nil || !ok {
			return false
		}
	}
	for key := range maps.Keys(m.Env) {
		if value, ok := event.Env[key]; !ok || value != m.Env[key] {
			return false
		}
	}
	return true
}

// Uevents gives the events that match, and waits for as many as are asked for.
func (a *Agent) Uevents(ask wire.Uevents, reply *wire.UeventsReply) error {
	if ask.Count == 0 {
		ask.Timeout = 0
	}
	reply.Next = a.uevents.scan(ask.Since, ask.Timeout, func(event wire.Uevent) bool {
		if matches(ask.Match, event) {
			reply.Events = append(reply.Events, event)
		}
		return ask.Count > 0 && len(reply.Events) == ask.Count
	})
	reply.Lost = int(a.uevents.lost.Load())
	return nil
}
