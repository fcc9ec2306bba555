package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// udev knows no group that comes after the rules that name it: each is made by
// what runs before the packages are unpacked, as sysusers.d has it.
func TestTheGroupsOfTheRulesAreMadeBeforeThem(t *testing.T) {
	read := func(name string) string {
		text, err := os.ReadFile("../../" + name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	var groups []string
	for _, found := range regexp.MustCompile(`GROUP="([^"]*)"`).FindAllStringSubmatch(read("rules/60-vfio-hotplug.rules"), -1) {
		if group := found[1]; group != "root" && !slices.Contains(groups, group) {
			groups = append(groups, group)
		}
	}
	if len(groups) == 0 {
		t.Error("the rules name no group")
	}
	for _, script := range []string{"packaging/deb/preinst", "packaging/rpm/pre"} {
		if !strings.Contains(read("nfpm.yaml"), "preinstall: "+script+"\n") {
			t.Errorf("no package has %s", script)
		}
		for _, group := range groups {
			line := "g " + group + " -"
			if !strings.Contains(read("packaging/sysusers.d/vfio-hotplug.conf"), "\n"+line+"\n") {
				t.Errorf("sysusers.d does not say %q", line)
			}
			if text := read(script); !strings.Contains(text, "echo '"+line+"' | systemd-sysusers ") || !strings.Contains(text, "groupadd --system "+group+"\n") && !strings.Contains(text, "groupadd --system "+group+" ") {
				t.Errorf("%s does not make the group %s", script, group)
			}
		}
	}
}
