package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/vmtest/initramfs"
	"vfio-hotplug/internal/vmtest/wire"
)

// LoadModule loads a module and what it needs. One that is loaded or built in
// is fine.
func (a *Agent) LoadModule(ask wire.Module, reply *wire.Outcome) error {
	*reply = outcome(load(ask))
	return nil
}

func load(ask wire.Module) error {
	release, err := release()
	if err != nil {
		return err
	}
	dir := filepath.Join("/lib/modules", release)
	modules, err := initramfs.ReadModules(dir)
	if err != nil {
		return err
	}
	files, err := modules.Closure(ask.Name)
	if err != nil {
		return err
	}
	for i, file := range slices.All(files) {
		params := ""
		if i == len(files)-1 {
			params = ask.Params
		}
		if err := insert(filepath.Join(dir, file), params); err != nil {
			return err
		}
	}
	return nil
}

func release() (string, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "", fmt.Errorf("uname: %w", err)
	}
	return unix.ByteSliceToString(name.Release[:]), nil
}

func insert(path, params string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), params, 0)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return &fs.PathError{Op: "finit_module", Path: path, Err: err}
	}
	return nil
}

// UnloadModule removes a module.
func (a *Agent) UnloadModule(ask wire.Module, reply *wire.Outcome) error {
	err := unix.DeleteModule(initramfs.ModuleName(ask.Name), unix.O_NONBLOCK)
	if err != nil {
		err = &fs.PathError{Op: "delete_module", Path: ask.Name, Err: err}
	}
	*reply = outcome(err)
	return nil
}
