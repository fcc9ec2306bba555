package daemon_test

import (
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vfio-hotplug/internal/control"
	"vfio-hotplug/internal/operate"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfstest"
	"vfio-hotplug/policy"
)

// explain is what explain says of the device at an address.
func (h *house) explain(a pci.Address) operate.Judgement {
	h.t.Helper()
	dev, err := h.FS().Open(a)
	if err != nil {
		h.t.Fatal(err)
	}
	defer dev.Close()
	p, err := h.parse()
	if err != nil {
		h.t.Fatal(err)
	}
	j, err := h.operator.Explain(h.t.Context(), operate.Request{Device: dev, Policy: func() *policy.Policy { return p }})
	if err != nil {
		h.t.Fatal(err)
	}
	return j
}

// TestWhatHasABusBehindItIsABridge: vfio-pci takes an endpoint whatever its class,
// and refuses what has a bus behind it whatever its class.
func TestWhatHasABusBehindItIsABridge(t *testing.T) {
	const switches = "[[rule]]\nname = \"switches\"\nmatch = { vendor = 0x10de }\ntakeover = \"idle\"\n"
	for name, c := range map[string]struct {
		class    pci.Class
		forwards bool
		driver   string
		outcome  operate.Outcome
	}{
		"an NVSwitch":            {0x068000, false, "vfio-pci", operate.Direct},
		"what has a bus behind":  {0x068000, true, "", operate.Left},
		"such a one, as storage": {0x018000, true, "", operate.Left},
		"a bridge to an old bus": {0x060100, false, "", operate.Left},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := build(t, 1, sysfstest.Options{}, switches)
				h.start()
				ids := pci.IDs{Vendor: 0x10de, Device: 0x1ac1, Class: c.class}
				h.BeginAdd(bayAt(1), sysfstest.Drive{IDs: ids, Forwards: c.forwards})
				synctest.Wait()
				h.FinishAdd(bayAt(1))
				time.Sleep(time.Minute)
				h.want(1, c.driver, c.outcome)
				h.end()
			})
		})
	}
}

// TestNobodyIsToldToGiveABridgeToVFIO: what to do when the bridge to an old bus
// stands in the way in the IOMMU group, as in many a desktop.
func TestNobodyIsToldToGiveABridgeToVFIO(t *testing.T) {
	isa := pci.Address{Device: 0x1f}
	lpc := sysfstest.Driver{Name: "lpc_ich", DMA: true, IDs: []sysfstest.Match{sysfstest.AnyOfClass(0x060100, 0xffff00)}}
	for _, rule := range []string{everyNVMe, everyNVMe + "group = \"with\"\n"} {
		synctest.Test(t, func(t *testing.T) {
			h := build(t, 1, sysfstest.Options{Extra: []sysfstest.Driver{lpc}, Drivers: []string{"lpc_ich", "nvme", "vfio-pci"}}, rule)
			h.AddBay(sysfstest.Bay{Address: isa, Group: 7})
			h.AddBay(sysfstest.Bay{Address: bayAt(1), Group: 7})
			h.Plug(isa, sysfstest.Drive{IDs: pci.IDs{Vendor: 0x8086, Device: 0xa305, Class: 0x060100}})
			h.Plug(bayAt(1), sysfstest.Drive{})
			h.start()
			time.Sleep(time.Minute)
			h.want(1, "nvme", operate.Refused)
			j := h.explain(bayAt(1))
			for _, said := range []string{h.log.last("pci_address=" + bayAt(1).String()), j.Reason + "; next: " + j.Next} {
				if strings.Contains(said, "to vfio") {
					t.Errorf("somebody is told to give a bridge to vfio: %s", said)
				}
				if !strings.Contains(said, "0000:00:1f.0 (lpc_ich) is a bridge") || !strings.Contains(said, "a group of its own") {
					t.Errorf("%s\ndoes not say what is in the way, and what to do", said)
				}
			}
			h.end()
		})
	}
}

// leaveWhat is a policy that takes every drive but what match says.
func leaveWhat(match string) string {
	return "[[rule]]\nname = \"stays\"\nmatch = { " + match + " }\naction = \"leave\"\n" + everyNVMe
}

// TestALeaveRuleIsNotPassedOverForWhatCannotBeRead: without CAP_SYS_ADMIN config
// space ends before the serial number, without an error.
func TestALeaveRuleIsNotPassedOverForWhatCannotBeRead(t *testing.T) {
	for name, guarded := range map[string]bool{"race": false, "guarded": true} {
		for arrival, early := range map[string]bool{"found": true, "plugged": false} {
			t.Run(name+"/"+arrival, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := build(t, 2, sysfstest.Options{Unprivileged: true, Drivers: vfioFirst}, leaveWhat(`dsn = "00-11-22-33-44-55-66-77"`))
					h.guard = guarded
					if early {
						h.Plug(bayAt(1), sysfstest.Drive{DSN: 0x0011223344556677})
					}
					h.start()
					time.Sleep(time.Second)
					if !early {
						h.plugDrive(1, sysfstest.Drive{DSN: 0x0011223344556677})
					}
					time.Sleep(time.Minute)
					h.want(1, "nvme", operate.Refused)
					h.wantNow("left as it was found", 1, "nvme", "")
					said := h.log.last("pci_address=" + bayAt(1).String())
					for _, want := range []string{"stays", "its dsn cannot be read", "CAP_SYS_ADMIN", "by its address, slot or IDs"} {
						if !strings.Contains(said, want) {
							t.Errorf("the journal says %s, and not %q", said, want)
						}
					}
					j := h.explain(bayAt(1))
					if j.Outcome != operate.Refused || !j.Steps[0].Unread || j.Steps[0].Key != "dsn" || !strings.Contains(j.Next, "vfio-hotplug explain "+bayAt(1).String()) {
						t.Errorf("explain says %s: %s; next: %s; %+v", j.Outcome, j.Reason, j.Next, j.Steps[0])
					}
					if d := h.command(control.MethodBind, 1); d.Outcome != string(operate.Refused) || h.Driver(bayAt(1)) != "nvme" {
						t.Errorf("bound by hand: %+v", d)
					}
					h.end()
				})
			})
		}
	}
}

// TestWhatCannotBeReadConcernsOnlyWhomTheRuleMayMean: the drives that another key
// of the rule rules out are taken.
func TestWhatCannotBeReadConcernsOnlyWhomTheRuleMayMean(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 2, sysfstest.Options{Unprivileged: true}, leaveWhat(`dsn = "00-11-22-33-44-55-66-77", slot = "A"`))
		h.start()
		h.plug(1)
		h.plug(2)
		time.Sleep(time.Minute)
		h.want(1, "nvme", operate.Refused)
		h.want(2, "vfio-pci", operate.Direct)
		h.end()
	})
}

// plugDrive plugs a drive such that the daemon hears of it before any driver can
// match.
func (h *house) plugDrive(bay int, drive sysfstest.Drive) {
	h.BeginAdd(bayAt(bay), drive)
	synctest.Wait()
	h.FinishAdd(bayAt(bay))
	synctest.Wait()
}

// enableVFs has the function in bay 1 make n virtual ones.
func (h *house) enableVFs(n string) error {
	return h.Root().Write("bus/pci/devices/"+bayAt(1).String()+"/sriov_numvfs", n+"\n")
}

// TestALeaveRuleByPlaceCoversVirtualFunctions: also the eighth, which has another
// device number than its physical function.
func TestALeaveRuleByPlaceCoversVirtualFunctions(t *testing.T) {
	for _, match := range []string{`slot = "A"`, `behind = "0000:00:01.0"`, `physfn = "0000:01:00.0"`, `numa_node = 1`} {
		for _, guarded := range []bool{false, true} {
			t.Run(match, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := build(t, 1, sysfstest.Options{Drivers: []string{"pcieport", "pci-stub", "vfio-pci", "nvme"}},
						leaveWhat(match)+"guard = "+strconv.FormatBool(guarded)+"\n"+"takeover = \"idle\"\n[[rule]]\nname = \"the function\"\nmatch = { address = \"0000:01:00.0\" }\naction = \"leave\"\n")
					h.guard = guarded
					h.start()
					h.plugDrive(1, sysfstest.Drive{TotalVFs: 8})
					h.Set("bus/pci/devices/0000:01:00.0/numa_node", "1\n") // by an administrator
					time.Sleep(time.Minute)
					if err := h.enableVFs("8"); err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Minute)
					vfs := 0
					for _, a := range h.Present() {
						if a.Bus != 1 || a == bayAt(1) {
							continue
						}
						vfs++
						if line := h.log.last("pci_address=" + a.String()); h.Driver(a) != "nvme" || !strings.Contains(line, "outcome=left ") {
							t.Errorf("%s is on %q: %s", a, h.Driver(a), line)
						}
					}
					if vfs != 8 {
						t.Errorf("%d VFs", vfs)
					}
					h.end()
				})
			})
		}
	}
}

// TestAVirtualFunctionIsNotJudgedBeforeItsPhysicalOneIsKnown: it is announced
// before the kernel makes the link between the two.
func TestAVirtualFunctionIsNotJudgedBeforeItsPhysicalOneIsKnown(t *testing.T) {
	vf := pci.Address{Bus: 1, Function: 1}
	for name, c := range map[string]struct{ policy, driver string }{
		"to be left":  {leaveWhat(`physfn = "0000:01:00.0"`), "nvme"},
		"to be taken": {"[[rule]]\nname = \"VFs\"\nmatch = { physfn = \"0000:01:00.0\" }\n", "vfio-pci"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := build(t, 1, sysfstest.Options{}, c.policy+"[[rule]]\nname = \"the function\"\nmatch = { address = \"0000:01:00.0\" }\naction = \"leave\"\n")
				h.start()
				h.plugDrive(1, sysfstest.Drive{TotalVFs: 1})
				announced := h.Pause(sysfstest.Announced, "", vf)
				enabled := make(chan error, 1)
				go func() { enabled <- h.enableVFs("1") }()
				<-announced.Reached()
				synctest.Wait()
				time.Sleep(100 * time.Millisecond)
				if h.Override(vf) != "" {
					t.Errorf("before it is known whose it is, its driver_override is %q", h.Override(vf))
				}
				announced.End()
				if err := <-enabled; err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				if h.Driver(vf) != c.driver {
					t.Errorf("it is on %q, want %s: %s", h.Driver(vf), c.driver, h.log.last("pci_address="+vf.String()))
				}
				h.end()
			})
		})
	}
}

// TestASlotThatComesWithItsPortIsWaitedFor: of a switch that is plugged with its
// drives, the drives are announced before the driver of the ports has named their
// slots.
func TestASlotThatComesWithItsPortIsWaitedFor(t *testing.T) {
	for name, slot := range map[string]string{"to be left": "A", "to be taken": "B"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := build(t, 0, sysfstest.Options{}, leaveWhat(`slot = "A"`))
				port := []pci.Address{{Device: 1}}
				h.AddBay(sysfstest.Bay{Address: bayAt(1), Above: port})
				h.start()
				h.BeginAdd(bayAt(1), sysfstest.Drive{})
				time.Sleep(100 * time.Millisecond)
				if h.Override(bayAt(1)) != "" {
					t.Errorf("before its slot is known, its driver_override is %q", h.Override(bayAt(1)))
				}
				h.AddBay(sysfstest.Bay{Address: bayAt(1), Slot: slot, Above: port})
				time.Sleep(2 * time.Second)
				h.FinishAdd(bayAt(1))
				time.Sleep(time.Minute)
				if slot == "A" {
					h.want(1, "nvme", operate.Left)
				} else {
					h.want(1, "vfio-pci", operate.Direct)
				}
				h.end()
			})
		})
	}
}
