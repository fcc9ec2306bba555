package main

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"vfio-hotplug/internal/control"
	"vfio-hotplug/internal/operate"
)

// The manual page names every field that --json prints.
func TestManualNamesTheFieldsOfJSON(t *testing.T) {
	text, err := os.ReadFile("../../packaging/man/vfio-hotplug.8")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n.Ss JSON\n")
	section, _, _ = strings.Cut(section, "\n.Sh ")
	words := map[string]bool{}
	for line := range strings.Lines(section) {
		for _, macro := range []string{".Li ", ".It Li "} {
			if word, ok := strings.CutPrefix(line, macro); ok {
				words[strings.Fields(word)[0]] = true
			}
		}
	}
	for _, v := range []any{statusReport{}, control.StatusReply{}, control.Device{}, control.Guard{}, report{}, ruleReport{}, operate.Check{}} {
		for f := range reflect.TypeOf(v).NumField() {
			if reflect.TypeOf(v).Field(f).Anonymous {
				continue
			}
			field, _, _ := strings.Cut(reflect.TypeOf(v).Field(f).Tag.Get("json"), ",")
			if !words[field] {
				t.Errorf("the field %s of %T is missing", field, v)
			}
		}
	}
}
