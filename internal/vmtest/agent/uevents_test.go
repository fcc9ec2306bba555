package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"vfio-hotplug/internal/vmtest/wire"
)

func TestParseUevent(t *testing.T) {
	got := parseUevent([]byte("add@/devices/pci0000:00/0000:01:00.0\x00ACTION=add\x00X=a=b\x00EMPTY=\x00"))
	want := wire.Uevent{Action: "add", Devpath: "/devices/pci0000:00/0000:01:00.0", Env: map[string]string{"ACTION": "add", "X": "a=b", "EMPTY": ""}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("event (-want +got):\n%s", diff)
	}
}

func TestMatches(t *testing.T) {
	event := wire.Uevent{Action: "bind", Devpath: "/devices/x/0000:01:00.0", Env: map[string]string{"SUBSYSTEM": "pci", "DRIVER": "nvme"}}
	for name, test := range map[string]struct {
		match wire.Match
		want  bool
	}{
		"all":              {wire.Match{}, true},
		"action":           {wire.Match{Action: "bind"}, true},
		"another action":   {wire.Match{Action: "add"}, false},
		"subsystem":        {wire.Match{Subsystem: "pci"}, true},
		"other subsystem":  {wire.Match{Subsystem: "block"}, false},
		"last element":     {wire.Match{Devpath: "0000:01:*"}, true},
		"other element":    {wire.Match{Devpath: "x"}, false},
		"a variable":       {wire.Match{Env: map[string]string{"DRIVER": "nvme"}}, true},
		"its other value":  {wire.Match{Env: map[string]string{"DRIVER": "vfio-pci"}}, false},
		"no such variable": {wire.Match{Env: map[string]string{"MODALIAS": ""}}, false},
	} {
		if got := matches(test.match, event); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}
