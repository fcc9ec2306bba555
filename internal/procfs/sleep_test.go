package procfs

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

func TestAThreadThatSleepsInAFunctionIsFound(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"1/wchan":          "do_epoll_wait",
		"20/wchan":         "futex_wait_queue",
		"20/task/20/wchan": "futex_wait_queue",
		"20/task/21/wchan": "vfio_unregister_group_dev.isra.0",
		"30/comm":          "one that has ended meanwhile",
	} {
		name = filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(name), 0o755))
		must(t, os.WriteFile(name, []byte(text), 0o644))
	}
	for function, want := range map[string]bool{"do_epoll_wait": true, "vfio_unregister_group_dev": true, "vfio_unregister": false, "0": false} {
		if got, err := Dir(dir).Sleeps(function); err != nil || got != want {
			t.Errorf("%s: %v, %v; want %v", function, got, err, want)
		}
	}
}

func TestTheKernelSaysWhereAProgramSleeps(t *testing.T) {
	waits := exec.Command("sleep", "1000")
	must(t, waits.Start())
	defer func() {
		waits.Process.Kill()
		waits.Wait()
	}()
	const function = "hrtimer_nanosleep"
	for giveUp := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if found, err := proc.sleeps(waits.Process.Pid, function); err != nil {
			t.Fatal(err)
		} else if found {
			break
		}
		if time.Now().After(giveUp) {
			t.Fatal("sleep(1) does not sleep in " + function)
		}
	}
	if found, err := proc.Sleeps(function); err != nil || !found {
		t.Errorf("among all processes: %v, %v", found, err)
	}
	if found, err := proc.Sleeps("no_such_function"); found || err != nil && !errors.Is(err, fs.ErrPermission) {
		t.Errorf("a function that is not there: %v, %v", found, err)
	}
}
