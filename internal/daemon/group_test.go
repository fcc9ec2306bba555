package daemon_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"vfio-hotplug/internal/control"
	"vfio-hotplug/internal/ledger"
	"vfio-hotplug/internal/operate"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfstest"
)

// together has the drives of a group taken together.
const together = everyNVMe + "group = \"with\"\n"

// lumped is a machine on which the bays 1 and 2 share an IOMMU group.
func lumped(t *testing.T, o sysfstest.Options, policy string) *house {
	t.Helper()
	h := build(t, 4, o, policy)
	h.lump()
	return h
}

func (h *house) lump() {
	for i := 1; i <= 2; i++ {
		h.AddBay(sysfstest.Bay{Address: bayAt(i), Slot: slotOf(i), Above: []pci.Address{{Device: uint8(i)}}, Group: 77})
	}
}

// fill plugs drives into both bays of the group; nvme has them.
func (h *house) fill() {
	for i := 1; i <= 2; i++ {
		h.Plug(bayAt(i), sysfstest.Drive{})
	}
}

// wantBoth checks that the drives of the group have one driver and, where it is
// nvme, that nothing of ours is left on them.
func (h *house) wantBoth(when, driver string) {
	h.t.Helper()
	for i := 1; i <= 2; i++ {
		override := driver
		if driver == "nvme" {
			override = ""
		}
		h.wantNow(when, i, driver, override)
	}
}

// wantAsFound checks that nobody has written to either drive of the group.
func (h *house) wantAsFound() {
	h.t.Helper()
	h.wantBoth("in the end", "nvme")
	for i := 1; i <= 2; i++ {
		if w := h.written(bayAt(i)); len(w) != 0 {
			h.t.Errorf("bay %d was written to: %v", i, w)
		}
	}
}

func TestASharedGroupIsRefusedWithNames(t *testing.T) {
	for name, c := range map[string]struct{ policy, remedy string }{
		"alone":          {everyNVMe, `say group = \"with\" in rule \"every drive\" (policy.toml:2)`},
		"only one named": {strings.ReplaceAll(together, `class = "nvme"`, `class = "nvme", slot = "A"`), "have a rule give 0000:02:00.0 (nvme) to vfio too"},
		"the other is left": {together + "[[rule]]\nname = \"keep\"\nmatch = { slot = \"B\" }\naction = \"leave\"\n",
			"have a rule give 0000:02:00.0 (nvme) to vfio too"},
		"the other goes elsewhere": {"[[rule]]\nname = \"uio\"\nmatch = { slot = \"B\" }\ndriver = \"uio_pci_generic\"\ntakeover = \"never\"\n" + together,
			"have a rule give 0000:02:00.0 (nvme) to vfio too"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := lumped(t, sysfstest.Options{Drivers: []string{"pcieport", "nvme", "vfio-pci", "uio_pci_generic"}}, c.policy)
				h.fill()
				h.start()
				time.Sleep(time.Minute)
				h.want(1, "nvme", operate.Refused)
				line := h.log.last("pci_address=0000:01:00.0")
				for _, want := range []string{"group 77 would not be viable, because of 0000:02:00.0 (nvme)", c.remedy} {
					if !strings.Contains(line, want) {
						t.Errorf("%s\ndoes not say %q", line, want)
					}
				}
				h.wantAsFound()
				h.end()
			})
		})
	}
}

func TestAGroupIsTakenTogether(t *testing.T) {
	for _, release := range []sysfstest.Release{sysfstest.Linux61, sysfstest.Linux73} {
		for name, come := range map[string]func(*house){
			"found": func(h *house) { h.fill(); h.start() },
			"newly named": func(h *house) {
				h.mu.Lock()
				h.policy = ""
				h.mu.Unlock()
				h.fill()
				h.start()
				h.write(together)
			},
			"both plugged": func(h *house) { h.start(); h.plug(1); h.plug(2) },
			"at once": func(h *house) {
				h.start()
				for _, step := range []func(pci.Address){func(a pci.Address) { h.BeginAdd(a, sysfstest.Drive{}) }, h.FinishAdd} {
					step(bayAt(1))
					step(bayAt(2))
				}
			},
			"both races lost": func(h *house) { h.start(); h.events.hold(); h.fill(); h.events.release() },
			"one race lost":   func(h *house) { h.start(); h.plug(1); h.plugLate(2) },
			"by hand": func(h *house) {
				h.fill()
				h.uses.mount(2, "/srv")
				h.start()
				time.Sleep(time.Minute) // the daemon has refused both
				h.uses.unmount(2)
				if d := h.command(control.MethodBind, 1); !slices.Equal(d.Along, []string{"0000:02:00.0"}) {
					h.t.Errorf("the command says %+v", d)
				}
			},
			"by two hands": func(h *house) {
				h.fill()
				h.uses.mount(1, "/srv")
				h.start()
				time.Sleep(time.Minute)
				h.uses.unmount(1)
				other := make(chan error, 1)
				go func() {
					_, err := h.ask(control.MethodBind, 2)
					other <- err
				}()
				h.command(control.MethodBind, 1)
				if err := <-other; err != nil {
					h.t.Error(err)
				}
			},
			"released and bound again": func(h *house) {
				h.fill()
				h.start()
				time.Sleep(time.Minute)
				h.releases("first", 1)
				h.releases("first", 2)
				h.command(control.MethodBind, 2)
			},
		} {
			t.Run(release.String()+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := lumped(t, sysfstest.Options{Release: release}, together)
					come(h)
					time.Sleep(time.Minute)
					h.wantBoth("in the end", "vfio-pci")
					if _, err := h.Hold(bayAt(1)); err != nil {
						t.Errorf("a program cannot open the group: %v", err)
					}
					h.end()
				})
			})
		}
	}
}

func TestWhatBelongsTogetherIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := lumped(t, sysfstest.Options{}, together)
		h.fill()
		h.start()
		time.Sleep(time.Minute)
		for i := 1; i <= 2; i++ {
			if lines := h.log.lines("pci_address=" + bayAt(i).String() + " outcome=taken driver=vfio-pci from=nvme"); len(lines) != 1 {
				t.Errorf("bay %d: taken is told %d times: %q", i, len(lines), h.log.lines(bayAt(i).String()))
			}
		}
		for _, e := range h.entries() {
			if e.Stage != "taken" || e.Before.Driver != "nvme" || e.Before.New || e.With != nil {
				t.Errorf("the ledger has %+v", e)
			}
		}
		h.releases("in the end", 2)
		time.Sleep(time.Second)
		if n := len(h.log.lines("no program can open 0000:01:00.0")); n != 1 {
			t.Errorf("that the other cannot be opened is told %d times", n)
		}
		h.releases("in the end", 1)
		h.end()
	})
}

// TestOneThatCannotComeKeepsAll: the others stay untouched, whichever of the two
// is looked at first.
func TestOneThatCannotComeKeepsAll(t *testing.T) {
	rule := func(extra string) string {
		return "[[rule]]\nname = \"second\"\nmatch = { slot = \"B\" }\n" + extra + "\n" + together
	}
	for name, c := range map[string]struct {
		policy  string
		prepare func(*house)
		words   string
	}{
		"in use": {together, func(h *house) { h.uses.mount(2, "/srv") },
			"0000:02:00.0 (nvme) cannot be taken along: in use: nvme0n1 → /srv"},
		"takeover": {rule(`takeover = "never"`), func(*house) {}, "0000:02:00.0 (nvme) cannot be taken along: takeover:"},
		"override": {together, func(h *house) {
			if err := h.Root().Write("bus/pci/devices/0000:02:00.0/driver_override", "somebody\n"); err != nil {
				h.t.Fatal(err)
			}
		}, "0000:02:00.0 (nvme) cannot be taken along: driver_override: it is somebody"},
		"driver":  {rule(`driver = "other-vfio-pci"`), func(*house) {}, "0000:02:00.0 (nvme) cannot be taken along: driver:"},
		"settles": {together, func(h *house) { h.uses.settle(2, false) }, "0000:02:00.0 (nvme) cannot be taken along: in use: it could not be checked"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := lumped(t, sysfstest.Options{}, c.policy)
				h.fill()
				c.prepare(h)
				h.start()
				time.Sleep(10 * time.Minute)
				if lines := h.log.lines(c.words); len(lines) == 0 {
					t.Errorf("nobody says %q, but %q", c.words, h.log.lines("0000:01:00.0"))
				}
				h.wantNow("in the end", 1, "nvme", "")
				if got := h.Driver(bayAt(2)); got != "nvme" {
					t.Errorf("bay 2 has %q", got)
				}
				if w := h.written(bayAt(1)); len(w) != 0 {
					t.Errorf("bay 1 was written to: %v", w)
				}
				h.end()
			})
		})
	}
}

// Of one that is taken along too, the last look must have seen all.
func TestNoneIsTakenAlongUnlessTheLastLookSaw(t *testing.T) {
	for bay := 1; bay <= 2; bay++ {
		t.Run(fmt.Sprint("bay ", bay), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := lumped(t, sysfstest.Options{}, together)
				h.fill()
				h.uses.blind(bay, syscall.EIO)
				h.start()
				time.Sleep(time.Minute)
				h.wantBoth("in the end", "nvme")
				if slices.Contains(h.written(bayAt(bay)), "bus/pci/drivers/nvme/unbind="+bayAt(bay).String()) {
					t.Error("it was unbound")
				}
				if h.log.last("input/output error") == "" {
					t.Error("nobody says why")
				}
				h.end()
			})
		})
	}
}

func TestAReleaseByHandIsNotTakenAlong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := lumped(t, sysfstest.Options{}, together)
		h.fill()
		h.start()
		time.Sleep(time.Minute)
		h.releases("both", 1)
		h.releases("both", 2)
		h.Unplug(bayAt(1))
		h.Plug(bayAt(1), sysfstest.Drive{})
		time.Sleep(time.Minute)
		h.want(1, "nvme", operate.Refused)
		if line := h.log.last("pci_address=0000:01:00.0"); !strings.Contains(line, "released by hand") || !strings.Contains(line, "vfio-hotplug bind 0000:02:00.0") {
			t.Errorf("the refusal is %q", line)
		}
		h.wantBoth("in the end", "nvme")
		h.end()
	})
}

// TestAStepThatFailsPutsAllBack: whichever of the two it is.
func TestAStepThatFailsPutsAllBack(t *testing.T) {
	for bay := 1; bay <= 2; bay++ {
		t.Run(fmt.Sprint("bay ", bay), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := lumped(t, sysfstest.Options{}, together)
				h.fill()
				h.FailProbe("vfio-pci", bayAt(bay), syscall.EIO)
				h.start()
				time.Sleep(time.Minute)
				h.wantBoth("in the end", "nvme")
				if entries := h.entries(); len(entries) != 0 {
					t.Errorf("the ledger has %+v", entries)
				}
				if h.log.last("outcome=failed") == "" {
					t.Error("nobody says that it failed")
				}
				h.end()
			})
		})
	}
}

// TestKilledWhileItTakesAGroup freezes the daemon for good at every single
// operation. The next one takes both, or gives both back if one cannot be taken
// any more.
func TestKilledWhileItTakesAGroup(t *testing.T) {
	for name, c := range map[string]struct {
		release sysfstest.Release
		end     string
	}{
		"and goes on": {sysfstest.Linux73, "vfio-pci"},
		"and cannot":  {sysfstest.Linux61, "nvme"},
	} {
		t.Run(name, func(t *testing.T) {
			n, over := 0, false
			for n = 1; !over && !t.Failed(); n++ {
				synctest.Test(t, func(t *testing.T) {
					h := lumped(t, sysfstest.Options{Release: c.release}, "")
					h.fill()
					h.start()
					over = !h.killDuring(n, func() { h.write(together) })
					if h.mounted(c.end, n%2+1) {
						h.uses.mount(n%2+1, "/srv")
					}
					h.start()
					time.Sleep(time.Minute)
					switch got := h.Driver(bayAt(1)); {
					case over || got == "vfio-pci" && c.end == "nvme": // it had been done before the kill
						h.wantBoth("done before", "vfio-pci")
					default:
						h.wantBoth("after the next start", c.end)
					}
					for i := 1; i <= 2 && h.Driver(bayAt(1)) == "vfio-pci"; i++ {
						h.releases("in the end", i)
					}
					h.end()
				})
				if t.Failed() {
					t.Logf("killed after operation %d", n)
				}
			}
			if n < 30 {
				t.Errorf("only %d operations", n)
			}
		})
	}
}

// mounted reports whether a drive can be mounted now, for a test that wants both
// to end with nvme: nvme has it.
func (h *house) mounted(end string, bay int) bool {
	return end == "nvme" && h.Driver(bayAt(bay)) == "nvme"
}

// TestARecordThatWasCutShort: the daemon was killed between two entries of the
// ledger.
func TestARecordThatWasCutShort(t *testing.T) {
	const firstOnly = "[[rule]]\nname = \"bay A\"\nmatch = { slot = \"A\" }\ngroup = \"with\"\n"
	for name, c := range map[string]struct {
		stages [2]ledger.Stage
		on     [2]string // the drivers then
		policy string    // of the next start
		driver string
	}{
		"before the second is noted":            {[2]ledger.Stage{ledger.Taking, ""}, [2]string{"nvme", "nvme"}, together, "vfio-pci"},
		"and the second is named no more":       {[2]ledger.Stage{ledger.Taking, ""}, [2]string{"nvme", "nvme"}, firstOnly, "nvme"},
		"one is bound, the other named no more": {[2]ledger.Stage{ledger.Taking, ledger.Taking}, [2]string{"vfio-pci", "nvme"}, firstOnly, "nvme"},
		"before the second is entered as taken": {[2]ledger.Stage{ledger.Taken, ledger.Taking}, [2]string{"vfio-pci", "vfio-pci"}, together, "vfio-pci"},
		"before the first is entered as taken":  {[2]ledger.Stage{ledger.Taking, ledger.Taking}, [2]string{"vfio-pci", "vfio-pci"}, together, "vfio-pci"},
		"while they are put back":               {[2]ledger.Stage{"", ledger.Taking}, [2]string{"nvme", "vfio-pci"}, together, "vfio-pci"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := lumped(t, sysfstest.Options{}, "")
				h.fill()
				h.start()
				h.end()
				for i := 1; i <= 2; i++ {
					h.leaveAt(i, c.stages[i-1], c.on[i-1])
				}
				h.mu.Lock()
				h.policy = c.policy
				h.mu.Unlock()
				h.start()
				time.Sleep(time.Minute)
				h.wantBoth("after the start", c.driver)
				for _, e := range h.entries() {
					if e.Stage != ledger.Taken || e.With != nil {
						t.Errorf("the ledger has %+v", e)
					}
				}
				if c.driver == "vfio-pci" {
					h.releases("in the end", 2)
					h.releases("in the end", 1)
				}
				h.end()
			})
		})
	}
}

// leaveAt leaves a drive of the group as a daemon does that was killed at a
// stage of its taking.
func (h *house) leaveAt(bay int, stage ledger.Stage, driver string) {
	h.t.Helper()
	dev, err := h.FS().Open(bayAt(bay))
	if err != nil {
		h.t.Fatal(err)
	}
	defer dev.Close()
	if driver != "nvme" {
		if err := errors.Join(dev.SetOverride(driver), dev.Unbind(h.t.Context(), "nvme"), dev.Probe()); err != nil {
			h.t.Fatal(err)
		}
	}
	if stage == "" {
		return
	}
	entry := ledger.Entry{Address: bayAt(bay), Identity: dev.Identity(), Before: ledger.Before{Driver: "nvme"}, Driver: "vfio-pci", Stage: stage}
	if stage == ledger.Taking {
		entry.With = []pci.Address{bayAt(3 - bay)}
	}
	if err := h.operator.Ledger.Put(entry); err != nil {
		h.t.Fatal(err)
	}
}

// TestAGuardBringsAGroup: both drives are caught, whatever the guard.
func TestAGuardBringsAGroup(t *testing.T) {
	for _, g := range guards {
		if g.read {
			continue
		}
		t.Run(g.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := guarded(t, g.options, g.policy)
				h.lump()
				h.start()
				time.Sleep(time.Second)
				h.fill()
				time.Sleep(time.Minute)
				for i := 1; i <= 2; i++ {
					h.wantNow("in the end", i, "vfio-pci", h.Override(bayAt(i)))
					h.wantTouched(i, h.Touched(bayAt(i))...)
				}
				if lines := h.log.lines("no program can open"); len(lines) != 0 {
					t.Errorf("the log has %q", lines)
				}
				h.end()
			})
		})
	}
}

// TestWhatKeepsProgramsOutIsToldOnce, and its end too.
func TestWhatKeepsProgramsOutIsToldOnce(t *testing.T) {
	const rule = "[[rule]]\nname = \"bay A\"\nmatch = { slot = \"A\" }\n"
	synctest.Test(t, func(t *testing.T) {
		h := lumped(t, sysfstest.Options{}, rule)
		h.start()
		h.plug(1)
		time.Sleep(time.Second)
		h.want(1, "vfio-pci", operate.Direct)
		told := func(words string, want int) {
			t.Helper()
			time.Sleep(time.Minute)
			if lines := h.log.lines(words); len(lines) != want {
				t.Errorf("%q is told %d times, want %d: %q", words, len(lines), want, lines)
			}
		}
		barred := func() string { return h.status()[0].Barred }
		told("no program can open", 0)
		h.Plug(bayAt(2), sysfstest.Drive{})
		told("no program can open 0000:01:00.0: IOMMU group 77 is not viable, because of 0000:02:00.0 (nvme)", 1)
		if got := barred(); got != "0000:02:00.0 (nvme)" {
			t.Errorf("status says that %q keeps programs out", got)
		}
		h.write(rule) // every device is looked at again
		h.Plug(bayAt(3), sysfstest.Drive{})
		told("no program can open", 1)
		h.Unplug(bayAt(2))
		told("is viable again", 1)
		if got := barred(); got != "" {
			t.Errorf("status says that %q keeps programs out", got)
		}
		h.Plug(bayAt(2), sysfstest.Drive{})
		told("no program can open", 2)
		h.unbind("nvme", 2)
		told("is viable again", 2)
		writes := len(h.Writes())
		h.end()
		if after := len(h.Writes()); after != writes {
			t.Errorf("%d writes too many", after-writes)
		}
	})
}

// TestAFreedGroupBringsWhoWaited: a drive that was refused for its group is
// looked at again when the others have changed, and not otherwise.
func TestAFreedGroupBringsWhoWaited(t *testing.T) {
	const rule = "[[rule]]\nname = \"bay A\"\nmatch = { slot = \"A\" }\n"
	for name, c := range map[string]struct {
		change func(*house)
		driver string
	}{
		"unbound":   {func(h *house) { h.unbind("nvme", 2) }, "vfio-pci"},
		"unplugged": {func(h *house) { h.Unplug(bayAt(2)) }, "vfio-pci"},
		"given to vfio": {func(h *house) {
			for _, write := range [][2]string{
				{"bus/pci/devices/0000:02:00.0/driver_override", "vfio-pci\n"},
				{"bus/pci/drivers/nvme/unbind", "0000:02:00.0"}, {"bus/pci/drivers_probe", "0000:02:00.0"},
			} {
				if err := h.Root().Write(write[0], write[1]); err != nil {
					h.t.Fatal(err)
				}
			}
		}, "vfio-pci"},
		"not at all": {func(*house) {}, "nvme"},
		"unbound and bound again, while nobody looks": {func(h *house) {
			h.events.hold()
			h.unbind("nvme", 2)
			if err := h.Root().Write("bus/pci/drivers_probe", "0000:02:00.0"); err != nil {
				h.t.Fatal(err)
			}
			h.events.release()
		}, "nvme"},
		"its own driver was taken by hand": {func(h *house) {
			h.unbind("nvme", 1)
			time.Sleep(time.Minute)
			h.unbind("nvme", 2)
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := lumped(t, sysfstest.Options{}, rule)
				h.fill()
				h.start()
				time.Sleep(time.Minute)
				h.want(1, "nvme", operate.Refused)
				c.change(h)
				time.Sleep(time.Minute)
				if got := h.Driver(bayAt(1)); got != c.driver {
					t.Errorf("driver %q, want %q", got, c.driver)
				}
				before := h.Operations()
				time.Sleep(24 * time.Hour)
				if after := h.Operations(); after != before {
					t.Errorf("%d operations while nothing happened", after-before)
				}
				h.end()
			})
		})
	}
}

// TestAGroupSaysWhyItIsOne: functions, a bridge without ACS, and Intel VMD.
func TestAGroupSaysWhyItIsOne(t *testing.T) {
	switchPort := pci.Address{Bus: 0x20}
	vmd := pci.Address{Device: 0x0e}
	for name, c := range map[string]struct {
		first, second sysfstest.Bay
		words, remedy string
	}{
		"functions": {
			sysfstest.Bay{Address: pci.Address{Bus: 0x10}, Above: []pci.Address{{Device: 0x10}}},
			sysfstest.Bay{Address: pci.Address{Bus: 0x10, Function: 1}, Above: []pci.Address{{Device: 0x10}}},
			"they are functions of one device", "group = \\\"with\\\""},
		"bridge": {
			sysfstest.Bay{Address: pci.Address{Bus: 0x21}, Above: []pci.Address{{Device: 0x11}, switchPort}, NoACS: true},
			sysfstest.Bay{Address: pci.Address{Bus: 0x21, Device: 1}, Above: []pci.Address{{Device: 0x11}, switchPort}, NoACS: true},
			"bridge 0000:20:00.0 does not keep apart what is behind it (no ACS)", "group = \\\"with\\\""},
		"VMD": {
			sysfstest.Bay{Address: pci.Address{Domain: 0x10000, Bus: 1}, Above: []pci.Address{vmd}, NoACS: true},
			sysfstest.Bay{Address: pci.Address{Domain: 0x10000, Bus: 1, Device: 1}, Above: []pci.Address{vmd}, NoACS: true},
			"the drive sits behind the Intel VMD controller 0000:00:0e.0", "switch VMD off"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := build(t, 1, sysfstest.Options{Drivers: []string{"pcieport", "nvme", "vfio-pci", "vmd"}}, everyNVMe+"vmd = true\n")
				for _, bay := range []sysfstest.Bay{c.first, c.second} {
					h.AddBay(bay)
					h.Plug(bay.Address, sysfstest.Drive{})
				}
				h.start()
				time.Sleep(time.Minute)
				line := h.log.last("pci_address=" + c.first.Address.String())
				for _, want := range []string{"outcome=refused", c.words, c.remedy} {
					if !strings.Contains(line, want) {
						t.Errorf("%s\ndoes not say %q", line, want)
					}
				}
				h.end()
			})
		})
	}
}

// TestASiblingThatIsLeavingNVMeKeepsNobodyWaiting: somebody else unbinds it from
// nvme just when the other drive is to be taken, and that does not end. Older
// kernels answer nothing of it then.
func TestASiblingThatIsLeavingNVMeKeepsNobodyWaiting(t *testing.T) {
	for _, release := range heldReleases {
		t.Run(release.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := lumped(t, sysfstest.Options{Release: release}, together)
				h.fill()
				h.uses.mount(2, "/srv")
				h.start()
				time.Sleep(time.Second) // the scan of one may wait for that of the other
				hangs := h.Pause(sysfstest.Releasing, "nvme", bayAt(2))
				h.uses.during(func() { // then the operation begins again, with the lock of the other
					h.uses.during(func() {
						h.uses.during(nil)
						go h.Root().Write("bus/pci/drivers/nvme/unbind", bayAt(2).String())
						<-hangs.Reached()
					})
				})
				answered := make(chan control.Device, 1)
				go func() { answered <- h.command(control.MethodBind, 1) }()
				time.Sleep(5 * time.Second)
				select {
				case d := <-answered:
					if d.Outcome != "refused" || !strings.Contains(d.Reason, "taking it from nvme") {
						t.Errorf("bind of the other drive: %+v", d)
					}
				default:
					t.Error("a command waits for the drive that is leaving")
				}
				hangs.End()
				time.Sleep(5 * time.Second)
				h.want(1, "vfio-pci", operate.Taken)
				h.end()
			})
		})
	}
}
