package procfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// Sleeps reports whether a thread of any process, or of the kernel, sleeps in a
// function of the kernel (proc_pid_wchan(5)). It reads a file of each thread.
//
// To whoever may not look into a process the kernel says the same as of one that
// is awake. Where nothing was found by somebody who may not look into process 1, the
// error unwraps to fs.ErrPermission.
func (d Dir) Sleeps(function string) (bool, error) {
	pids, err := d.processes()
	if err != nil {
		return false, err
	}
	for _, pid := range pids {
		if sleeps, err := d.sleeps(pid, function); sleeps || err != nil {
			return sleeps, err
		}
	}
	if _, err := os.Readlink(d.of(1) + "/exe"); errors.Is(err, fs.ErrPermission) {
		return false, fmt.Errorf("see where threads sleep: %w", err)
	}
	return false, nil
}

// sleeps is Sleeps for one process.
func (d Dir) sleeps(pid int, function string) (bool, error) {
	threads, err := d.threads(pid)
	if err != nil && !Ended(err) {
		return false, err
	}
	places := []string{d.of(pid)}
	for _, thread := range threads {
		places = append(places, d.thread(pid, thread))
	}
	for _, place := range places {
		text, err := os.ReadFile(place + "/wchan")
		if err != nil && !Ended(err) {
			return false, err
		}
		// A compiler may have added to the name, such as ".isra.0".
		if name, _, _ := strings.Cut(string(text), "."); name == function {
			return true, nil
		}
	}
	return false, nil
}
