package inuse

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"vfio-hotplug/internal/pci"
)

// generic gives a namespace its character device.
func (m *machine) generic(name string) (node string) {
	m.t.Helper()
	m.minor++
	node = m.path("dev/" + name)
	m.file("sys/class/nvme-generic/"+name+"/dev", fmt.Sprintf("241:%d\n", m.minor))
	m.nodes.numbers[node] = number{241, m.minor}
	m.nodes.character[node] = true
	return node
}

// open is a machine whose drive has one blank namespace with two partitions,
// and all its nodes.
func open(t *testing.T) *machine {
	t.Helper()
	m := newMachine(t)
	m.namespace(1, blank)
	m.partition("nvme0n1", 1)
	m.partition("nvme0n1", 2)
	m.generic("ng0n1")
	m.process(10, "vfio-hotplug", 1)
	m.link("proc/self", "10")
	return m
}

// maps gives a process a mapping of a file, between others that are of none.
func (m *machine) maps(pid int, file string) {
	m.t.Helper()
	m.file(fmt.Sprintf("proc/%d/maps", pid), "00400000-00452000 r-xp 00000000 08:02 173521                             /usr/bin/program\n"+
		"00e03000-00e24000 rw-p 00000000 00:00 0                                  [heap]\n"+
		"7f15a0000000-7f15a0001000 rw-s 00000000 00:05 4711                       "+file+"\n"+
		"7ffd1d9d1000-7ffd1d9f2000 rw-p 00000000 00:00 0                          [stack]\n")
	m.link(fmt.Sprintf("proc/%d/map_files/400000-452000", pid), "/usr/bin/program")
	m.link(fmt.Sprintf("proc/%d/map_files/7f15a0000000-7f15a0001000", pid), file)
}

func TestADriveThatAProgramHasOpenIsInUse(t *testing.T) {
	for _, c := range []struct {
		name   string
		make   func(*machine)
		says   string
		remedy string
	}{
		{"a namespace", func(m *machine) { m.holds(123, "postgres", m.path("dev/nvme0n1")) },
			"nvme0n1 → postgres (process 123)", "stop that program"},
		{"a partition", func(m *machine) { m.holds(123, "qemu-system-x86", m.path("dev/nvme0n1p2")) },
			"nvme0n1p2 → qemu-system-x86 (process 123)", "stop that program"},
		{"its controller", func(m *machine) { m.holds(123, "nvme", m.path("dev/nvme0")) },
			"nvme0 → nvme (process 123)", "stop that program"},
		{"a namespace's generic node", func(m *machine) { m.holds(123, "xnvme", m.path("dev/ng0n1")) },
			"ng0n1 → xnvme (process 123)", "stop that program"},
		{"the generic node of a head", func(m *machine) {
			m.multipath(2)
			m.holds(123, "xnvme", m.generic("ng5n1"))
		}, "ng5n1 → xnvme (process 123)", "stop that program"},
		{"a volume on it", func(m *machine) {
			m.built("md0", "", "nvme0n1p2")
			m.holds(123, "qemu-system-x86", m.path("dev/md0"))
		}, "nvme0n1p2 → md0", "lsblk /dev/nvme0n1p2"},
		{"by a node of another name", func(m *machine) {
			m.nodes.numbers["/srv/container/disk"] = m.nodes.numbers[m.path("dev/nvme0n1")]
			m.holds(123, "postgres", "/srv/container/disk")
		}, "nvme0n1 → postgres (process 123)", "stop that program"},
		{"twice by one, once by another", func(m *machine) {
			m.holds(9, "first", m.path("dev/nvme0n1"), m.path("dev/null"), m.path("dev/nvme0n1"))
			m.holds(123, "second", m.path("dev/nvme0n1"))
		}, "nvme0n1 → first (process 9); nvme0n1 → second (process 123)", "stop that program"},
		{"claimed by the one who has it open", func(m *machine) {
			m.nodes.faults[m.path("dev/nvme0n1")] = syscall.EBUSY
			m.holds(123, "mkfs.xfs", m.path("dev/nvme0n1"))
		}, "nvme0n1 → mkfs.xfs (process 123)", "stop that program"},
		{"by a thread that outlived the first one", func(m *machine) {
			m.process(123, "postgres", 1)
			m.mkdir("proc/123/fd")
			m.mkdir("proc/123/task/123/fd")
			m.link("proc/123/task/125/fd/3", m.path("dev/nvme0n1"))
		}, "nvme0n1 → postgres (process 123)", "stop that program"},
		{"by a thread with a table of its own", func(m *machine) {
			m.holds(123, "postgres", m.path("dev/null"))
			m.link("proc/123/task/123/fd/7", m.path("dev/null"))
			m.link("proc/123/task/125/fd/3", m.path("dev/nvme0n1"))
		}, "nvme0n1 → postgres (process 123)", "stop that program"},
		{"by a program with a line feed in its name", func(m *machine) { m.holds(123, "a\nb", m.path("dev/nvme0n1")) },
			`nvme0n1 → "a\nb" (process 123)`, "stop that program"},
		{"by a program and by udev", func(m *machine) {
			m.holds(122, "(udev-worker)", m.path("dev/nvme0n1"))
			m.holds(123, "postgres", m.path("dev/nvme0n1"))
		}, "nvme0n1 → postgres (process 123)", "stop that program"},
		{"by a program whose parent is process 1, and we cannot tell who we are", func(m *machine) {
			m.remove("proc/self")
			m.holds(1, "systemd", m.path("dev/nvme0n1"))
			m.process(1, "systemd", 0)
		}, "nvme0n1 → systemd (process 1)", "stop that program"},
		{"by a process that does not tell its parent", func(m *machine) {
			m.holds(123, "postgres", m.path("dev/nvme0n1"))
			m.file("proc/123/stat", "123 (postgres)\n")
		}, "nvme0n1 → postgres (process 123)", "stop that program"},

		{"a descriptor that may not be looked at", func(m *machine) {
			m.holds(123, "a", "/a")
			m.holds(124, "b", "/b")
			m.nodes.faults[m.path("proc/123/fd/7")] = syscall.EACCES
			m.nodes.faults[m.path("proc/124/fd/7")] = syscall.EPERM
		}, "what 2 processes may have open cannot be seen: permission denied", "be root"},
		{"one that may not be looked at, another that may", func(m *machine) {
			m.holds(123, "a", "/a", m.path("dev/nvme0n1"))
			m.nodes.faults[m.path("proc/123/fd/7")] = syscall.EACCES
		}, "nvme0n1 → a (process 123); what 1 process may have open cannot be seen: permission denied", "stop that program"},
		{"a descriptor that cannot be looked at", func(m *machine) {
			m.holds(123, "a", "/a")
			m.nodes.faults[m.path("proc/123/fd/7")] = syscall.EIO
		}, "what process 123 has open cannot be seen: stat MACHINE/proc/123/fd/7: input/output error", "be root"},
		{"a table that cannot be read", func(m *machine) {
			m.process(123, "a", 1)
			m.file("proc/123/fd", "no directory")
		}, "what process 123 has open cannot be seen: readdirent MACHINE/proc/123/fd: not a directory", "be root"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := open(t)
			c.make(m)
			report, hold, err := m.look("nvme", pci.NVMe, forBlank)
			must(t, err)
			if got := strings.ReplaceAll(report.String(), m.dir, "MACHINE"); got != c.says || !report.Veto() {
				t.Errorf("veto %v, report\n%s\nwant\n%s", report.Veto(), got, c.says)
			}
			if !strings.Contains(report.Remedy(), c.remedy) {
				t.Errorf("remedy %q, want one with %q", report.Remedy(), c.remedy)
			}
			if hold != nil || !m.nodes.allClosed() {
				t.Error("a vetoed drive is still held")
			}
		})
	}
}

// While a process ends the kernel refuses to say where its descriptors lead, and
// then it is gone, or a zombie.
func TestAProcessThatEndsHasNothingOpen(t *testing.T) {
	for name, end := range map[string]func(*machine){
		"gone":     func(m *machine) { m.remove("proc/123/status") },
		"a zombie": func(m *machine) { m.file("proc/123/status", "Name:\ta\nState:\tZ (zombie)\nFDSize:\t0\n") },
	} {
		t.Run(name, func(t *testing.T) {
			m := open(t)
			m.holds(123, "a", "/a")
			m.nodes.faults[m.path("proc/123/fd/7")] = syscall.EACCES
			end(m)
			report, hold, err := m.look("nvme", pci.NVMe, forBlank)
			must(t, err)
			defer hold.Close()
			if report.Veto() {
				t.Errorf("report %q", report)
			}
		})
	}
}

// A process forks and ends before its turn. What it had open its child has, which
// is in no list that was made before.
func TestAUseThatMovesToANewProcessIsSeen(t *testing.T) {
	for _, how := range []How{forBlank, {Passive: true}} {
		m := open(t)
		m.holds(122, "another", "/a")
		m.holds(123, "sh", m.path("dev/nvme0n1"))
		m.nodes.onAsk = func(string) {
			m.nodes.onAsk = nil
			m.holds(124, "child", m.path("dev/nvme0n1"))
			m.remove("proc/123")
		}
		report, _, err := m.look("nvme", pci.NVMe, how)
		must(t, err)
		if report.String() != "nvme0n1 → child (process 124)" {
			t.Errorf("%+v: report %q", how, report)
		}
	}
}

// What cannot be seen because it changes is looked at again, until somebody loses
// his patience.
func TestWhatChangesFasterThanItCanBeReadIsWaitedFor(t *testing.T) {
	for says, c := range map[string]func(*machine){
		"new processes start faster than they can be looked into": func(m *machine) {
			last := 200
			m.nodes.onAsk = func(string) {
				last++
				m.holds(last, "sh", "/a")
			}
		},
		"what process 123 has open changes faster than it can be read": func(m *machine) {
			m.maps(123, "/a")
			m.nodes.faults[m.path("proc/123/map_files/7f15a0000000-7f15a0001000")] = syscall.ENOENT
		},
	} {
		m := open(t)
		m.holds(123, "sh", "/a")
		c(m)
		report, _, err := m.look("nvme", pci.NVMe, How{Passive: true})
		if unsettled, ok := errors.AsType[*NotSettledError](err); !ok || unsettled.Error() != says {
			t.Errorf("error %v, report %q, want that %s", err, report, says)
		}
	}
}

// A mapping outlives its descriptor. The look right before the unbind sees it, and
// that of explain.
func TestADriveThatAProgramHasMappedIsInUse(t *testing.T) {
	for name, c := range map[string]struct {
		make func(*machine)
		says string
	}{
		"a disk":      {func(m *machine) { m.maps(123, m.path("dev/nvme0n1")) }, "nvme0n1 → postgres (process 123)"},
		"a partition": {func(m *machine) { m.maps(123, m.path("dev/nvme0n1p2")) }, "nvme0n1p2 → postgres (process 123)"},
		"a mapping that may not be looked at": {func(m *machine) {
			m.maps(123, "/a")
			m.nodes.faults[m.path("proc/123/map_files/7f15a0000000-7f15a0001000")] = syscall.EPERM
		}, "what 1 process may have open cannot be seen: permission denied"},
		"mappings that cannot be read": {func(m *machine) { m.mkdir("proc/123/maps") },
			"what process 123 has open cannot be seen: read MACHINE/proc/123/maps: is a directory"},
	} {
		for _, how := range []How{{Passive: true}, {All: true}} {
			t.Run(fmt.Sprintf("%s/%+v", name, how), func(t *testing.T) {
				m := open(t)
				m.holds(122, "another", m.path("dev/null"))
				m.maps(122, "/usr/bin/program")
				m.holds(123, "postgres", m.path("dev/null"))
				c.make(m)
				report, _, err := m.look("nvme", pci.NVMe, how)
				must(t, err)
				if got := strings.ReplaceAll(report.String(), m.dir, "MACHINE"); got != c.says || !report.Veto() {
					t.Errorf("veto %v, report\n%s\nwant\n%s", report.Veto(), got, c.says)
				}
			})
		}
	}
}

// Explain names every use; whoever only wants to know whether there is one does
// not look through all processes for more.
func TestALookEndsAtTheFirstStepThatFindsAUse(t *testing.T) {
	m := open(t)
	m.mount("nvme0n1p1", "/srv")
	m.built("md0", "", "nvme0n1p2")
	m.holds(123, "qemu-system-x86", m.path("dev/md0"))
	m.holds(124, "tail", m.path("dev/ng0n1"))
	for how, says := range map[How]string{
		forBlank:        "nvme0n1p1 → /srv; nvme0n1p2 → md0",
		{Passive: true}: "nvme0n1p1 → /srv; nvme0n1p2 → md0",
		{All: true}:     "ng0n1 → tail (process 124); nvme0n1p1 → /srv; nvme0n1p2 → md0 → qemu-system-x86 (process 123)",
	} {
		m.nodes.asked.Store(0)
		report, _, err := m.look("nvme", pci.NVMe, how)
		must(t, err)
		if report.String() != says {
			t.Errorf("%+v: report\n%s\nwant\n%s", how, report, says)
		}
		if asked := m.nodes.asked.Load(); (asked > 0) != how.All {
			t.Errorf("%+v: %d descriptors were followed", how, asked)
		}
	}
}

func TestWithoutAProcessNothingIsKnownOfPrograms(t *testing.T) {
	m := open(t)
	m.remove("proc/1")
	m.remove("proc/10")
	report, _, err := m.look("nvme", pci.NVMe, How{All: true})
	must(t, err)
	if got := strings.ReplaceAll(report.String(), m.dir, "MACHINE"); !strings.Contains(got, "what programs have open cannot be seen: no process in MACHINE/proc") {
		t.Errorf("report %q", got)
	}
}

func TestWhatIsNoUseOfADrive(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(*machine)
	}{
		{"our own hold of it", func(m *machine) { m.holds(10, "vfio-hotplug", m.path("dev/nvme0n1"), m.path("dev/nvme0")) }},
		{"our blkid", func(m *machine) {
			m.holds(11, "blkid", m.path("dev/nvme0n1"))
			m.process(11, "blkid", 10)
		}},
		{"our child before it runs its program", func(m *machine) {
			m.holds(11, "anything", m.path("dev/nvme0n1"))
			m.process(11, "anything", 10)
		}},
		{"another drive", func(m *machine) { m.holds(123, "postgres", m.path("dev/nvme1n1")) }},
		{"a character device of the same number", func(m *machine) {
			m.nodes.numbers["/dev/other"] = m.nodes.numbers[m.path("dev/nvme0n1")]
			m.nodes.character["/dev/other"] = true
			m.holds(123, "postgres", "/dev/other")
		}},
		{"a process that ends before its table is read", func(m *machine) { m.process(123, "a", 1) }},
		{"a descriptor that is closed before it is looked at", func(m *machine) {
			m.holds(123, "a", m.path("dev/nvme0n1"))
			m.nodes.faults[m.path("proc/123/fd/7")] = syscall.ENOENT
		}},
		{"a process that ends before it is looked at", func(m *machine) {
			m.holds(123, "a", m.path("dev/nvme0n1"))
			m.nodes.faults[m.path("proc/123/fd/7")] = syscall.ESRCH
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := open(t)
			c.make(m)
			report, hold, err := m.look("nvme", pci.NVMe, forBlank)
			must(t, err)
			defer hold.Close()
			if report.Veto() || report.String() != "unused and blank" {
				t.Errorf("report %q", report)
			}
		})
	}
}

// Every one of these has the drive open for a moment after it was plugged.
func TestWhoLooksAtANewDriveIsWaitedFor(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(*machine)
		says string
	}{
		{"a worker of udev", func(m *machine) { m.holds(123, "(udev-worker)", m.path("dev/nvme0n1p1")) },
			"(udev-worker) (process 123) is still looking at nvme0n1p1"},
		{"an older one", func(m *machine) { m.holds(123, "systemd-udevd", m.path("dev/nvme0n1")) },
			"systemd-udevd (process 123) is still looking at nvme0n1"},
		{"eudev", func(m *machine) { m.holds(123, "udevd", m.path("dev/nvme0n1")) },
			"udevd (process 123) is still looking at nvme0n1"},
		{"what a worker of udev has started", func(m *machine) {
			m.process(122, "(udev-worker)", 1)
			m.holds(123, "mdadm", m.path("dev/nvme0n1"))
			m.process(123, "mdadm", 122)
			m.nodes.faults[m.path("dev/nvme0n1")] = syscall.EBUSY
		}, "mdadm (process 123) is still looking at nvme0n1"},
		{"another's blkid", func(m *machine) { m.holds(123, "blkid", m.path("dev/nvme0n1")) },
			"blkid (process 123) is still looking at nvme0n1"},
		{"udisks, at the controller", func(m *machine) { m.holds(123, "udisksd", m.path("dev/nvme0")) },
			"udisksd (process 123) is still looking at nvme0"},
		{"explain, by a process of its own", func(m *machine) { m.holds(123, "vfio-hotplug", m.path("dev/nvme0n1")) },
			"vfio-hotplug (process 123) is still looking at nvme0n1"},
		{"two of them", func(m *machine) {
			m.holds(123, "udevd", m.path("dev/nvme0n1"))
			m.holds(124, "udevd", m.path("dev/nvme0n1p1"))
		}, "udevd (process 123) is still looking at nvme0n1, udevd (process 124) is still looking at nvme0n1p1"},
		{"one that ended before it was asked its name", func(m *machine) {
			m.holds(123, "sh", m.path("dev/nvme0n1"))
			m.remove("proc/123/comm")
		}, "process 123, which had nvme0n1 open, has just ended"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := open(t)
			c.make(m)
			report, hold, err := m.look("nvme", pci.NVMe, forBlank)
			unsettled, ok := errors.AsType[*NotSettledError](err)
			if !ok {
				t.Fatalf("error %v, report %q, want a *NotSettledError", err, report)
			}
			if unsettled.Error() != c.says {
				t.Errorf("it says\n%s\nwant\n%s", unsettled, c.says)
			}
			if hold != nil || !m.nodes.allClosed() {
				t.Error("it is still held")
			}
		})
	}
}

func TestTablesThatMayNotBeReadAreADoubt(t *testing.T) {
	m := open(t)
	m.passable()
	m.holds(123, "a", "/a")
	must(t, os.Chmod(m.path("proc/123/fd"), 0))
	defer os.Chmod(m.path("proc/123/fd"), 0o755)
	f, _ := m.finder()
	l := &look{Finder: f}
	unprivileged(func() { l.programs() })
	if got := l.report.String(); got != "what 1 process may have open cannot be seen: permission denied" {
		t.Errorf("report %q", got)
	}
}

// The kernel's own procfs, with a device that every machine has.
func TestOurOwnDescriptorsAreFound(t *testing.T) {
	file, err := os.Open("/dev/null")
	must(t, err)
	defer file.Close()
	l := &look{Finder: New(nil, "/")}
	if found := l.programs(); !found.has(device{character: true, number: null}, os.Getpid()) {
		t.Errorf("we are not among those that have the null device open: %v", found)
	}
}

func TestWhatADescriptorLeadsTo(t *testing.T) {
	reader, writer, err := os.Pipe()
	must(t, err)
	defer reader.Close()
	defer writer.Close()
	regular, err := os.Create(filepath.Join(t.TempDir(), "file"))
	must(t, err)
	defer regular.Close()
	for _, file := range []*os.File{reader, regular} {
		d, ok, err := kernelNodes{}.behind("/proc/self/fd/" + strconv.Itoa(int(file.Fd())))
		if ok || err != nil {
			t.Errorf("%s is device %v, error %v", file.Name(), d, err)
		}
	}
	if _, _, err := (kernelNodes{}).behind("/proc/self/fd/no-number"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no descriptor: error %v", err)
	}
}
