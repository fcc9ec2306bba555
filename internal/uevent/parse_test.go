package uevent

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pilebones/go-udev/netlink"
)

const pciAdd = "add@/devices/pci0000:00/0000:00:02.0/0000:01:00.0\x00" +
	"ACTION=add\x00" +
	"DEVPATH=/devices/pci0000:00/0000:00:02.0/0000:01:00.0\x00" +
	"SUBSYSTEM=pci\x00" +
	"PCI_CLASS=10802\x00" +
	"PCI_ID=144D:A804\x00" +
	"PCI_SUBSYS_ID=144D:A801\x00" +
	"PCI_SLOT_NAME=0000:01:00.0\x00" +
	"MODALIAS=pci:v0000144Dd0000A804sv0000144Dsd0000A801bc01sc08i02\x00" +
	"SEQNUM=4021\x00"

func TestParse(t *testing.T) {
	long := strings.Repeat("x", 64<<10)
	tests := map[string]struct {
		raw    string
		action netlink.KObjAction
		path   string
		env    map[string]string
		seq    uint64
	}{
		"a PCI device that was added": {
			raw:    pciAdd,
			action: netlink.ADD,
			path:   "/devices/pci0000:00/0000:00:02.0/0000:01:00.0",
			env: map[string]string{
				"ACTION":        "add",
				"DEVPATH":       "/devices/pci0000:00/0000:00:02.0/0000:01:00.0",
				"SUBSYSTEM":     "pci",
				"PCI_CLASS":     "10802",
				"PCI_ID":        "144D:A804",
				"PCI_SUBSYS_ID": "144D:A801",
				"PCI_SLOT_NAME": "0000:01:00.0",
				"MODALIAS":      "pci:v0000144Dd0000A804sv0000144Dsd0000A801bc01sc08i02",
				"SEQNUM":        "4021",
			},
			seq: 4021,
		},
		"an '@' in the path": {
			raw:    "bind@/devices/platform/soc@0/1c00000.pcie\x00DEVPATH=/devices/platform/soc@0/1c00000.pcie\x00",
			action: netlink.BIND,
			path:   "/devices/platform/soc@0/1c00000.pcie",
			env:    map[string]string{"DEVPATH": "/devices/platform/soc@0/1c00000.pcie"},
		},
		"an '=' in a value": {
			raw:    "change@/devices/x\x00OF_FULLNAME=/a=b\x00EQUALS==\x00",
			action: netlink.CHANGE,
			path:   "/devices/x",
			env:    map[string]string{"OF_FULLNAME": "/a=b", "EQUALS": "="},
		},
		"an empty value": {
			raw:    "change@/devices/x\x00MODALIAS=\x00",
			action: netlink.CHANGE,
			path:   "/devices/x",
			env:    map[string]string{"MODALIAS": ""},
		},
		"a synthetic event, as udevadm trigger makes them": {
			raw:    "add@/devices/x\x00SYNTH_UUID=9bbf3d3c-6a0c-4d9e-9f44-1b5c6b1c7a10\x00SYNTH_ARG_A=1\x00SEQNUM=7\x00",
			action: netlink.ADD,
			path:   "/devices/x",
			env:    map[string]string{"SYNTH_UUID": "9bbf3d3c-6a0c-4d9e-9f44-1b5c6b1c7a10", "SYNTH_ARG_A": "1", "SEQNUM": "7"},
			seq:    7,
		},
		"a header alone": {
			raw:    "remove@/module/vfio_pci\x00",
			action: netlink.REMOVE,
			path:   "/module/vfio_pci",
			env:    map[string]string{},
		},
		"the largest number": {
			raw:    "move@/devices/x\x00SEQNUM=18446744073709551615\x00",
			action: netlink.MOVE,
			path:   "/devices/x",
			env:    map[string]string{"SEQNUM": "18446744073709551615"},
			seq:    math.MaxUint64,
		},
		"a key that is there twice": {
			raw:    "online@/devices/x\x00SEQNUM=1\x00A=1\x00SEQNUM=2\x00A=2\x00",
			action: netlink.ONLINE,
			path:   "/devices/x",
			env:    map[string]string{"SEQNUM": "2", "A": "2"},
			seq:    2,
		},
		"64 KiB": {
			raw:    "offline@/" + long + "\x00A=" + long + "\x00",
			action: netlink.OFFLINE,
			path:   "/" + long,
			env:    map[string]string{"A": long},
		},
		"bytes that are no UTF-8": {
			raw:    "unbind@/devices/\xff\x00A=\xfe\n\x00",
			action: netlink.UNBIND,
			path:   "/devices/\xff",
			env:    map[string]string{"A": "\xfe\n"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			ev := Event{Seq: 99} // of an earlier event
			ev.Env = map[string]string{"DRIVER": "nvme"}
			if err := Parse([]byte(test.raw), &ev); err != nil {
				t.Fatal(err)
			}
			want := Event{Seq: test.seq, UEvent: netlink.UEvent{Action: test.action, KObj: test.path, Env: test.env}}
			if diff := cmp.Diff(want, ev); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	tests := map[string]struct {
		raw  string
		err  error
		says string
	}{
		"nothing":                       {"", ErrMalformed, "no NUL"},
		"no NUL":                        {"add@/devices/x", ErrMalformed, "no NUL"},
		"64 KiB without NUL":            {strings.Repeat("x", 64<<10), ErrMalformed, "no NUL"},
		"a lone NUL":                    {"\x00", ErrMalformed, "no '@'"},
		"no action and no path":         {"@\x00", ErrMalformed, "not absolute"},
		"no path":                       {"add@\x00A=1\x00", ErrMalformed, "not absolute"},
		"a relative path":               {"add@devices/x\x00", ErrMalformed, "not absolute"},
		"no header":                     {"ACTION=add\x00DEVPATH=/devices/x\x00", ErrMalformed, "no '@'"},
		"no action":                     {"@/devices/x\x00", ErrUnknownAction, `""`},
		"an action of a later kernel":   {"attest@/devices/x\x00", ErrUnknownAction, `"attest"`},
		"an action in capitals":         {"ADD@/devices/x\x00", ErrUnknownAction, `"ADD"`},
		"a property that was truncated": {"add@/devices/x\x00ACTION=add\x00SUBSYS", ErrMalformed, `no NUL after "SUBSYS"`},
		"a value that was truncated":    {strings.TrimSuffix(pciAdd, "21\x00"), ErrMalformed, `no NUL after "SEQNUM=40"`},
		"a field without '='":           {"add@/devices/x\x00DRIVER\x00", ErrMalformed, `"DRIVER" is not KEY=VALUE`},
		"an empty field":                {"add@/devices/x\x00\x00A=1\x00", ErrMalformed, `"" is not KEY=VALUE`},
		"an empty key":                  {"add@/devices/x\x00=1\x00", ErrMalformed, `"=1" is not KEY=VALUE`},
		"an empty number":               {"add@/devices/x\x00SEQNUM=\x00", ErrMalformed, `SEQNUM ""`},
		"a negative number":             {"add@/devices/x\x00SEQNUM=-1\x00", ErrMalformed, `SEQNUM "-1"`},
		"a number of more than 64 bits": {"add@/devices/x\x00SEQNUM=18446744073709551616\x00", ErrMalformed, "SEQNUM"},
		"a message of udevd":            {"libudev\x00\xfe\xed\xca\xfe" + strings.Repeat("\x00", 28) + "ACTION=add\x00", ErrMalformed, "no '@'"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := Parse([]byte(test.raw), new(Event))
			if !errors.Is(err, test.err) {
				t.Fatalf("Parse = %v, want %v", err, test.err)
			}
			if !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %q does not say %s", err, test.says)
			}
		})
	}
}

func TestParseKeepsNothingOfTheMessage(t *testing.T) {
	raw := []byte(pciAdd)
	var ev Event
	noError(t, Parse(raw, &ev))
	clear(raw)
	if ev.KObj != "/devices/pci0000:00/0000:00:02.0/0000:01:00.0" || ev.Env["PCI_SLOT_NAME"] != "0000:01:00.0" {
		t.Errorf("the event changed with the message: %q", ev)
	}
}

func TestParseAllocatesTwiceAtMost(t *testing.T) {
	raw := []byte(pciAdd)
	var ev Event
	allocs := testing.AllocsPerRun(1000, func() {
		if err := Parse(raw, &ev); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > 2 {
		t.Errorf("%v allocations, want at most 2", allocs)
	}
}
