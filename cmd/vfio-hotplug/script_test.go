package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"vfio-hotplug": main, oldDaemon: runOldDaemon})
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
			"nobody": nobody,
			"device": device,
		},
	})
}

// exits runs the program and checks its exit code: exits CODE ARG...
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: exits CODE ARG...")
	}
	wantCode(ts, ts.Exec("vfio-hotplug", args[1:]...), args[0])
}

// wantCode checks how a program ended that has run.
func wantCode(ts *testscript.TestScript, err error, want string) {
	code := 0
	if err != nil {
		var exit interface{ ExitCode() int }
		ok := false
		if exit, ok = err.(interface{ ExitCode() int }); !ok {
			ts.Fatalf("run: %v", err)
		}
		code = exit.ExitCode()
	}
	if got := fmt.Sprint(code); got != want {
		ts.Fatalf("exit code %s, want %s", got, want)
	}
}

// nobody is exits for a user who is not root: nobody CODE ARG... What the
// program writes to its standard output and error is left in the files stdout
// and stderr.
func nobody(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: nobody CODE ARG...")
	}
	self, err := os.Executable()
	ts.Check(err)
	work := ts.MkAbs(".")
	// testscript.Main goes by the name that the program is called by.
	program := filepath.Join(work, "vfio-hotplug")
	// Copied by another process: a child that is forked here meanwhile would
	// hold it open for writing, and it could not be run.
	ts.Check(exec.Command("cp", self, program).Run())
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(program, args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = work, &stdout, &stderr
	if os.Getuid() == 0 {
		ts.Check(errors.Join(os.Chmod(filepath.Dir(work), 0o711), os.Chmod(work, 0o755)))
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	err = cmd.Run()
	ts.Check(errors.Join(
		os.WriteFile(filepath.Join(work, "stdout"), stdout.Bytes(), 0o644),
		os.WriteFile(filepath.Join(work, "stderr"), stderr.Bytes(), 0o644)))
	wantCode(ts, err, args[0])
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
	ts.Check(os.WriteFile(dir+"/ari_enabled", []byte("0\n"), 0o644))
	if len(args) == 3 {
		ts.Check(os.MkdirAll(ts.MkAbs("root/sys/bus/pci/drivers/"+args[2]), 0o755))
		ts.Check(os.Symlink("../../../bus/pci/drivers/"+args[2], dir+"/driver"))
	}
}
