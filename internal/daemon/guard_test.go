package daemon_test

import (
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"vfio-hotplug/internal/control"
	"vfio-hotplug/internal/operate"
	"vfio-hotplug/internal/sysfstest"
)

// someNVMe takes every drive but the one in bay D.
const someNVMe = everyNVMe + `
[[rule]]
name   = "bay D"
match  = { slot = "D" }
action = "leave"
`

// vfioFirst is the order of registration that kernels before 6.17 need.
var vfioFirst = []string{"pcieport", "pci-stub", "vfio-pci", "nvme", "e1000e"}

// guarded makes a machine whose daemon has a guard.
func guarded(t *testing.T, o sysfstest.Options, policy string) *house {
	t.Helper()
	h := build(t, 4, o, policy)
	h.guard = true
	return h
}

// wantGuard checks which guard was chosen last.
func (h *house) wantGuard(mode string) {
	h.t.Helper()
	if line := h.log.last(" guard="); !strings.Contains(line, "guard="+mode+" ") {
		h.t.Errorf("the log's last word on the guard is %q, want %s", line, mode)
	}
	if g := h.report().Guard; g == nil || g.Mode != mode || g.Pending {
		h.t.Errorf("status says of the guard %+v, want %s in force", g, mode)
	}
}

// wantTouched checks which drivers have touched what is in a bay.
func (h *house) wantTouched(bay int, drivers ...string) {
	h.t.Helper()
	if got := h.Touched(bayAt(bay)); !slices.Equal(got, drivers) {
		h.t.Errorf("bay %d was touched by %v, want %v", bay, got, drivers)
	}
}

// TestGuards: the daemon is always late, and no drive that is wanted is ever
// touched by nvme; one that is left ends with nvme.
func TestGuards(t *testing.T) {
	for _, test := range []struct {
		name    string
		options sysfstest.Options
		policy  string
		mode    string
		wanted  []string // who touches a wanted drive
		left    []string // and one that is left
	}{
		{"6.1 claims", sysfstest.Options{Release: sysfstest.Linux61, Drivers: vfioFirst}, everyNVMe, "claim", []string{"vfio-pci"}, nil},
		{"6.12 claims", sysfstest.Options{Release: sysfstest.Linux612, Drivers: vfioFirst}, everyNVMe, "claim", []string{"vfio-pci"}, nil},
		{"7.3 claims in any order", sysfstest.Options{}, everyNVMe, "claim", []string{"vfio-pci"}, nil},
		{"6.1 by stub", sysfstest.Options{Release: sysfstest.Linux61, Drivers: vfioFirst}, someNVMe, "stub", []string{"pci-stub", "vfio-pci"}, []string{"pci-stub", "nvme"}},
		{"7.3 by stub", sysfstest.Options{Drivers: vfioFirst}, someNVMe, "stub", []string{"pci-stub", "vfio-pci"}, []string{"pci-stub", "nvme"}},
		{"7.3 by gate", sysfstest.Options{Missing: []string{"pci-stub"}}, someNVMe, "gate", []string{"vfio-pci"}, []string{"nvme"}},
		{"claim by name, some are left", sysfstest.Options{}, someNVMe + "[guard]\nmode = \"claim\"\n", "claim", []string{"vfio-pci"}, []string{"vfio-pci", "nvme"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := guarded(t, test.options, test.policy)
				h.start()
				time.Sleep(time.Second)
				h.wantGuard(test.mode)
				for round := range 3 {
					h.plugLate(1)
					time.Sleep(11 * time.Second)
					h.want(1, "vfio-pci", operate.Direct)
					h.wantTouched(1, test.wanted...)
					if test.left != nil {
						h.plugLate(4)
						time.Sleep(11 * time.Second)
						h.want(4, "nvme", operate.Left)
						h.wantTouched(4, test.left...)
						if override := h.Override(bayAt(4)); override != "" {
							t.Errorf("override %q was left behind", override)
						}
						h.Unplug(bayAt(4))
					}
					if round < 2 {
						h.Unplug(bayAt(1))
					}
					time.Sleep(time.Second)
				}
				if missed := h.log.lines("guard missed"); len(missed) > 0 {
					t.Errorf("%q", missed)
				}
				if d := h.command(control.MethodRelease, 1); d.Outcome != "released" || d.Driver != "nvme" {
					t.Errorf("release: %+v", d)
				}
				h.end()
			})
		})
	}
}

func TestAnAdverseOrderIsSaidAndMended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := guarded(t, sysfstest.Options{Release: sysfstest.Linux61, Drivers: []string{"pcieport", "nvme", "pci-stub", "vfio-pci"}}, everyNVMe)
		h.start()
		time.Sleep(time.Second)
		h.wantGuard("race")
		if line := h.log.last(" guard="); !strings.Contains(line, "softdep nvme_core pre") {
			t.Errorf("%q does not say how to mend it", line)
		}
		h.plugLate(1)
		time.Sleep(time.Second)
		h.want(1, "vfio-pci", operate.Taken)
		h.end()
	})
}

func TestAGuardByNameThatCannotHoldIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := guarded(t, sysfstest.Options{Release: sysfstest.Linux61, Drivers: []string{"pcieport", "nvme", "vfio-pci"}}, everyNVMe+"[guard]\nmode = \"claim\"\n")
		h.start()
		time.Sleep(time.Second)
		line := h.log.last("guard claim cannot hold here")
		if !strings.Contains(line, "level=ERROR") || !strings.Contains(line, "softdep nvme_core pre") {
			t.Errorf("%q is no error with its remedy", line)
		}
		h.end()
	})
}

func TestDevicesWithoutADriverAreNotCaught(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := guarded(t, sysfstest.Options{Drivers: []string{"pcieport", "vfio-pci", "pci-stub"}}, someNVMe)
		h.Plug(bayAt(4), sysfstest.Drive{})
		h.start()
		time.Sleep(time.Second)
		h.wantGuard("stub")
		if driver, override := h.Driver(bayAt(4)), h.Override(bayAt(4)); driver != "" || override != "" {
			t.Errorf("driver %q, override %q; want none, as found", driver, override)
		}
		h.end()
	})
}

func TestTheGuardFollowsThePolicyAndItsModule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := guarded(t, sysfstest.Options{Drivers: vfioFirst}, everyNVMe)
		h.start()
		time.Sleep(time.Second)
		h.wantGuard("claim")
		h.write(someNVMe)
		time.Sleep(time.Second)
		h.wantGuard("stub")
		if ids := h.DynamicIDs("vfio-pci"); len(ids) != 0 {
			t.Errorf("vfio-pci still has %v", ids)
		}
		h.write(everyNVMe)
		time.Sleep(time.Second)
		if err := h.UnloadModule("vfio-pci"); err != nil {
			t.Fatal(err)
		}
		if err := h.LoadModule("vfio-pci"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		h.plugLate(1)
		time.Sleep(11 * time.Second)
		h.want(1, "vfio-pci", operate.Direct)
		h.wantTouched(1, "vfio-pci")
		h.write("[guard]\nmode = \"off\"\n")
		time.Sleep(time.Second)
		h.wantGuard("race")
		if ids := h.DynamicIDs("vfio-pci"); len(ids) != 0 {
			t.Errorf("vfio-pci still has %v", ids)
		}
		h.end()
	})
}

// TestKilledUnderAGuard: the daemon is killed, drives come, and the next one
// finds them where they belong.
func TestKilledUnderAGuard(t *testing.T) {
	for _, test := range []struct {
		name    string
		options sysfstest.Options
		policy  string
	}{
		{"claim", sysfstest.Options{Drivers: vfioFirst}, everyNVMe},
		{"stub", sysfstest.Options{Drivers: vfioFirst}, someNVMe},
		{"gate", sysfstest.Options{Missing: []string{"pci-stub"}, Drivers: []string{"pcieport", "nvme", "vfio-pci", "e1000e"}}, someNVMe},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := guarded(t, test.options, test.policy)
				h.start()
				time.Sleep(time.Second)
				h.wantGuard(test.name)
				h.end() // the guard stays armed: nothing here takes it back
				h.Plug(bayAt(1), sysfstest.Drive{})
				h.Plug(bayAt(2), sysfstest.Drive{IDs: sysfstest.NIC()})
				if test.name != "claim" {
					h.Plug(bayAt(4), sysfstest.Drive{})
				}
				h.start()
				time.Sleep(time.Minute)
				if driver := h.Driver(bayAt(1)); driver != "vfio-pci" {
					t.Errorf("the wanted drive is on %q", driver)
				}
				if driver := h.Driver(bayAt(2)); driver != "e1000e" {
					t.Errorf("the network card is on %q", driver)
				}
				if test.name != "claim" && h.Driver(bayAt(4)) != "nvme" {
					t.Errorf("the drive that is left is on %q", h.Driver(bayAt(4)))
				}
				h.end()
			})
		})
	}
}

func TestAnArmingThatHangsHoldsUpNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := guarded(t, sysfstest.Options{}, everyNVMe)
		free := make(chan struct{})
		h.After(func(op sysfstest.Op, _ error) {
			if op.Kind == sysfstest.OpWrite && strings.HasSuffix(op.Path, "/new_id") {
				<-free
			}
		})
		h.start()
		if h.ready.last("READY=1") == "" {
			t.Error("the arming kept the daemon from being ready")
		}
		time.Sleep(11 * time.Second)
		if line := h.log.last("arming the guard has not ended"); line == "" {
			t.Error("the arming that hangs was not reported")
		}
		if g := h.report().Guard; g == nil || g.Mode != "claim" || !g.Pending {
			t.Errorf("status says of the guard %+v, want a claim that is pending", g)
		}
		h.plug(1)
		time.Sleep(time.Minute)
		h.want(1, "vfio-pci", operate.Direct)
		if len(h.log.lines("guard=claim slot=A")) == 0 {
			t.Error("nothing in the log says that the drive was guarded, and its ID works")
		}
		if took := h.end(); took >= time.Second {
			t.Errorf("a stop took %v", took)
		}
		close(free)
	})
}

func TestARefusedDriveThatTheGuardCaughtGoesToItsDriver(t *testing.T) {
	for name, options := range map[string]sysfstest.Options{
		"claim": {Drivers: vfioFirst}, "stub": {Drivers: vfioFirst},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := guarded(t, options, everyNVMe+"[guard]\nmode = \""+name+"\"\n")
				h.start()
				time.Sleep(time.Second)
				h.wantGuard(name)
				h.FailProbe("vfio-pci", bayAt(1), syscall.EIO)
				h.plugLate(1)
				time.Sleep(time.Minute)
				h.want(1, "nvme", operate.Failed)
				if override := h.Override(bayAt(1)); override != "" {
					t.Errorf("override %q was left behind", override)
				}
				h.end()
			})
		})
	}
}

// TestGuardFalseHasTheDriveReadFirst: also where the guard catches it.
func TestGuardFalseHasTheDriveReadFirst(t *testing.T) {
	for name, policy := range map[string]string{
		"no guard":    everyNVMe + "guard = false\n",
		"mode off":    everyNVMe + "[guard]\nmode = \"off\"\n",
		"stub guards": "[[rule]]\nname = \"read\"\nmatch = { class = \"nvme\", slot = \"A\" }\nguard = false\n" + everyNVMe,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := guarded(t, sysfstest.Options{Drivers: vfioFirst}, policy)
				h.start()
				time.Sleep(time.Second)
				h.plug(1)
				time.Sleep(time.Minute)
				h.want(1, "vfio-pci", operate.Taken)
				if touched := h.Touched(bayAt(1)); !slices.Contains(touched, "nvme") {
					t.Errorf("touched by %v, and nvme has not read it", touched)
				}
				if missed := h.log.lines("guard missed"); len(missed) > 0 {
					t.Errorf("%q", missed)
				}
				h.end()
			})
		})
	}
}

func TestGuardFalseIsRefusedWhereNobodyReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := guarded(t, sysfstest.Options{Drivers: []string{"pcieport", "vfio-pci"}}, everyNVMe+"guard = false\n")
		h.start()
		h.plug(1)
		time.Sleep(time.Minute)
		h.want(1, "", operate.Refused)
		h.end()
	})
}

// TestADriveThatComesAfterTheListWasRead: the scan of a reload does not take it
// for one that has gone, and what was heard of it still counts.
func TestADriveThatComesAfterTheListWasRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := guarded(t, sysfstest.Options{}, everyNVMe)
		h.start()
		time.Sleep(time.Minute)
		var once sync.Once
		h.After(func(op sysfstest.Op, _ error) {
			if op.Kind == sysfstest.OpList && op.Path == "bus/pci/devices" {
				once.Do(func() {
					h.Plug(bayAt(1), sysfstest.Drive{})
					time.Sleep(time.Millisecond) // its events are heard
				})
			}
		})
		h.write(everyNVMe)
		time.Sleep(time.Minute)
		told := slices.DeleteFunc(h.log.lines("pci_address=0000:01:00.0"), func(line string) bool { return strings.Contains(line, "level=DEBUG") })
		if len(told) != 1 || !strings.Contains(told[0], "outcome=direct driver=vfio-pci") {
			t.Errorf("told is %q, want direct and nothing else", told)
		}
		h.end()
	})
}
