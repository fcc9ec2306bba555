package main

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"vfio-hotplug": main})
}

// TestScripts runs the program as a user would, on a root directory that each
// script brings. Nothing there reacts to writes: what a bind does is tested on
// the model and in guests.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":  exits,
			"device": device,
		},
	})
}

// exits runs the program and checks its exit code: exits CODE ARG...
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: exits CODE ARG...")
	}
	err := ts.Exec("vfio-hotplug", args[1:]...)
	code := 0
	if err != nil {
		var exit interface{ ExitCode() int }
		ok := false
		if exit, ok = err.(interface{ ExitCode() int }); !ok {
			ts.Fatalf("run: %v", err)
		}
		code = exit.ExitCode()
	}
	if got := fmt.Sprint(code); got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

// device makes a PCI function below root/sys: device ADDRESS MODALIAS [DRIVER]
func device(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: device ADDRESS MODALIAS [DRIVER]")
	}
	bus, dir := ts.MkAbs("root/sys/bus/pci/devices"), ts.MkAbs("root/sys/devices/pci0000:00/"+args[0])
	ts.Check(errors.Join(os.MkdirAll(bus, 0o755), os.MkdirAll(dir, 0o755)))
	ts.Check(os.Symlink("../../../devices/pci0000:00/"+args[0], bus+"/"+args[0]))
	ts.Check(os.WriteFile(dir+"/modalias", []byte(args[1]+"\n"), 0o644))
	ts.Check(os.WriteFile(dir+"/driver_override", []byte("(null)\n"), 0o644))
	if len(args) == 3 {
		ts.Check(os.MkdirAll(ts.MkAbs("root/sys/bus/pci/drivers/"+args[2]), 0o755))
		ts.Check(os.Symlink("../../../bus/pci/drivers/"+args[2], dir+"/driver"))
	}
}
