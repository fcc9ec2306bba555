package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"vfio-hotplug/internal/daemon"
	"vfio-hotplug/internal/ledger"
	"vfio-hotplug/internal/operate"
	"vfio-hotplug/internal/sysfstest"
)

// beforeNVMe is a machine early in its boot: nvme is not loaded.
func beforeNVMe() sysfstest.Options {
	return sysfstest.Options{Drivers: []string{"pcieport", "vfio-pci", "e1000e"}}
}

// scanAtBoot does what the unit before udev's coldplug does.
func (h *house) scanAtBoot(ctx context.Context) error {
	h.t.Helper()
	book, err := ledger.Open(h.run, "/proc")
	if err != nil {
		h.t.Fatal(err)
	}
	h.operator = &operate.Operator{
		FS: h.FS(), Ledger: book, Uses: h.uses, Load: h.load,
		Aliases: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("")), nil },
		Dev:     h.run, Proc: "/proc", Limit: h.limits,
	}
	early, err := daemon.New(daemon.Config{
		FS: h.FS(), Load: h.parse, Operator: h.operator,
		Log: slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return early.Boot(ctx)
}

func TestAtBootDrivesWithoutADriverComeDirectly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 3, beforeNVMe(), everyNVMe)
		h.Plug(bayAt(1), sysfstest.Drive{})
		h.Plug(bayAt(2), sysfstest.Drive{IDs: sysfstest.NIC()})
		if err := h.scanAtBoot(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.want(1, "vfio-pci", operate.Direct)
		if w := h.written(bayAt(2)); len(w) != 0 {
			t.Errorf("the network card was written to: %v", w)
		}
		if err := h.LoadModule("nvme"); err != nil { // udev's coldplug
			t.Fatal(err)
		}
		h.start()
		if touched := h.Touched(bayAt(1)); len(touched) != 1 {
			t.Errorf("touched by %v", touched)
		}
		// It had not been offered to any driver: that is what it goes back to.
		result := h.operator.Release(t.Context(), h.byHand(1))
		if result.Outcome != operate.Released || h.Driver(bayAt(1)) != "nvme" || h.Override(bayAt(1)) != "" {
			t.Errorf("%s (%s): driver %q, override %q", result.Outcome, result.Reason, h.Driver(bayAt(1)), h.Override(bayAt(1)))
		}
		h.end()
	})
}

// Before the file systems are mounted every drive looks idle.
func TestAtBootADriveThatHasADriverWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, sysfstest.Options{}, everyNVMe)
		h.Plug(bayAt(1), sysfstest.Drive{})
		if err := h.scanAtBoot(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.want(1, "nvme", operate.Left)
		if w := h.written(bayAt(1)); len(w) != 0 {
			t.Errorf("it was written to: %v", w)
		}
		h.start()
		h.want(1, "vfio-pci", operate.Taken)
		h.end()
	})
}

// nvme may be loaded at the very moment: the kernel then matches it before the
// override stands, and what it has got cannot be checked yet.
func TestAtBootALostRaceIsNotRepaired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, beforeNVMe(), everyNVMe)
		h.Plug(bayAt(1), sysfstest.Drive{})
		h.Fault(func(op sysfstest.Op) error {
			if strings.HasSuffix(op.Path, "driver_override") && op.Value == "vfio-pci\n" && h.Driver(bayAt(1)) == "" {
				return h.LoadModule("nvme")
			}
			return nil
		})
		if err := h.scanAtBoot(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.want(1, "nvme", operate.Left)
		if override := h.Override(bayAt(1)); override != "" {
			t.Errorf("override %q was left behind", override)
		}
		if e := h.entries(); len(e) != 0 {
			t.Errorf("ledger: %+v", e)
		}
	})
}

func TestAtBootADriveThatIsToBeReadFirstWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, beforeNVMe(), everyNVMe+"guard = false\n")
		h.Plug(bayAt(1), sysfstest.Drive{})
		if err := h.scanAtBoot(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.want(1, "", operate.Left)
		if w := h.written(bayAt(1)); len(w) != 0 {
			t.Errorf("it was written to: %v", w)
		}
	})
}

// What fstab names and is not there yet may be on any drive that no driver has
// read. A network card cannot bring it.
func TestAtBootADriveThatTheMachineMayWaitForIsReadFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 2, sysfstest.Options{Drivers: []string{"pcieport", "vfio-pci"}}, everyNVMe+"[[rule]]\nname = \"cards\"\nmatch = { class = \"nic\" }\n")
		h.Plug(bayAt(1), sysfstest.Drive{})
		h.Plug(bayAt(2), sysfstest.Drive{IDs: sysfstest.NIC()})
		h.uses.awaited = "/etc/fstab line 3: LABEL=data on /srv"
		if err := h.scanAtBoot(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.want(1, "", operate.Left)
		h.want(2, "vfio-pci", operate.Direct)
		if w := h.written(bayAt(1)); len(w) != 0 {
			t.Errorf("it was written to: %v", w)
		}
		if said := h.log.lines("it may be what is not there yet of /etc/fstab line 3: LABEL=data on /srv"); len(said) != 1 {
			t.Errorf("the log says why %d times", len(said))
		}
		if err := h.LoadModule("nvme"); err != nil { // udev's coldplug
			t.Fatal(err)
		}
		h.uses.mount(1, "/srv")
		h.start()
		h.want(1, "nvme", operate.Refused)
		h.end()
	})
}

// The boot goes on when a device does not answer.
func TestAtBootADeviceThatHangsIsLeftToTheDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 2, beforeNVMe(), everyNVMe)
		h.Plug(bayAt(1), sysfstest.Drive{})
		h.Plug(bayAt(2), sysfstest.Drive{})
		hanging := make(chan struct{})
		h.Fault(func(op sysfstest.Op) error {
			if strings.Contains(op.Path, bayAt(1).String()) && strings.HasSuffix(op.Path, "driver_override") {
				<-hanging
				return syscall.EIO
			}
			return nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
		defer cancel()
		if err := h.scanAtBoot(ctx); !errors.Is(err, daemon.ErrLate) {
			t.Errorf("the scan says %v, want that not every device has answered", err)
		}
		h.want(2, "vfio-pci", operate.Direct)
		close(hanging)
		synctest.Wait()
		h.Fault(nil)
		h.start()
		time.Sleep(time.Minute)
		if got := h.Driver(bayAt(1)); got != "vfio-pci" {
			t.Errorf("the daemon left it on %q", got)
		}
		h.end()
	})
}

// The rules keep nvme from a drive during udev's coldplug; the daemon's first
// scan takes it on, without a moment in which nvme could have it.
func TestADriveThatTheColdplugKeptComesDirectly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := coldplugged(t, 1, everyNVMe)
		h.start()
		h.want(1, "vfio-pci", operate.Direct)
		if touched := h.Touched(bayAt(1)); len(touched) != 1 {
			t.Errorf("touched by %v", touched)
		}
		if result := h.operator.Release(t.Context(), h.byHand(1)); result.Driver != "nvme" || h.Override(bayAt(1)) != "" {
			t.Errorf("given back to %q with override %q", result.Driver, h.Override(bayAt(1)))
		}
		h.end()
	})
}

// What the coldplug kept and the daemon does not take gets its own driver.
func TestADriveThatTheColdplugKeptInVainGoesToItsDriver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := coldplugged(t, 1, `[guard]`)
		h.start()
		if driver, override := h.Driver(bayAt(1)), h.Override(bayAt(1)); driver != "nvme" || override != "" {
			t.Errorf("driver %q, override %q", driver, override)
		}
		h.end()
	})
}

// Killed before any write of it, too: the next daemon goes on.
func TestADriveThatTheColdplugKeptInVainOutlivesADaemon(t *testing.T) {
	for n, reached := 0, true; reached; n++ {
		reached = false
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := coldplugged(t, 1, `[guard]`)
				dead, writes := make(chan struct{}), 0
				h.Fault(func(op sysfstest.Op) error {
					if op.Kind != sysfstest.OpWrite {
						return nil
					}
					if writes++; writes > n {
						reached = true
						<-dead
						return os.ErrClosed
					}
					return nil
				})
				h.start()
				time.Sleep(time.Minute)
				h.stop()
				<-h.ended
				if err := os.RemoveAll(filepath.Join(h.run, "lock")); err != nil { // the kernel unlocks for the dead
					t.Fatal(err)
				}
				h.Fault(nil)

				h.start()
				time.Sleep(time.Minute)
				if driver, override := h.Driver(bayAt(1)), h.Override(bayAt(1)); driver != "nvme" || override != "" {
					t.Errorf("driver %q, override %q", driver, override)
				}
				if e := h.entries(); len(e) > 0 {
					t.Errorf("the ledger says %+v", e)
				}
				h.end()
				close(dead)
				time.Sleep(time.Minute)
			})
		})
	}
}

// Where the ledger cannot be written, too.
func TestADriveThatTheColdplugKeptInVainNeedsNoLedger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := coldplugged(t, 1, `[guard]`)
		if err := os.MkdirAll(filepath.Join(h.run, "devices", bayAt(1).String()+".json.tmp"), 0o755); err != nil {
			t.Fatal(err)
		}
		h.start()
		time.Sleep(time.Minute)
		if driver, override := h.Driver(bayAt(1)), h.Override(bayAt(1)); driver != "nvme" || override != "" {
			t.Errorf("driver %q, override %q", driver, override)
		}
		if len(h.log.lines("level=ERROR")) == 0 {
			t.Error("nobody was told of the ledger")
		}
		h.end()
	})
}

// What the coldplug kept was never taken: whoever meets it while it is let go of
// does not say so, and a release of it is none.
func TestADriveThatTheColdplugKeptWasNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := coldplugged(t, 2, `[guard]`)
		h.start()
		h.end()
		for bay := 1; bay <= 2; bay++ { // killed after its probe
			dev, err := h.FS().Open(bayAt(bay))
			if err != nil {
				t.Fatal(err)
			}
			defer dev.Close()
			entry := ledger.Entry{Address: dev.Address(), Identity: dev.Identity(), Before: ledger.Before{New: true},
				Driver: operate.Unoffered, At: time.Now(), Stage: ledger.Letting}
			if err := h.operator.Ledger.Put(entry); err != nil {
				t.Fatal(err)
			}
			if bay == 1 {
				r := h.operator.Release(t.Context(), h.byHand(bay))
				released, err := h.operator.Ledger.Released(dev.Address(), dev.Identity())
				if r.Outcome != operate.Released || r.Driver != "nvme" || released || err != nil {
					t.Errorf("released: %+v, noted %v, %v", r, released, err)
				}
			}
		}
		h.Unplug(bayAt(2))
		h.start()
		time.Sleep(time.Minute)
		if said := h.log.lines(operate.Unoffered); len(said) > 0 {
			t.Errorf("it is said %q", said)
		}
		if e := h.entries(); len(e) > 0 {
			t.Errorf("the ledger says %+v", e)
		}
		h.end()
	})
}

// coldplugged makes a machine with a drive in each bay, which the udev rules have
// kept from nvme at the boot.
func coldplugged(t *testing.T, bays int, policy string) *house {
	t.Helper()
	h := build(t, bays, beforeNVMe(), policy)
	for bay := 1; bay <= bays; bay++ {
		h.Plug(bayAt(bay), sysfstest.Drive{})
		h.keep(bay)
	}
	if err := h.LoadModule("nvme"); err != nil {
		t.Fatal(err)
	}
	return h
}

// keep does what the udev rules do.
func (h *house) keep(bay int) {
	h.t.Helper()
	dev, err := h.FS().Open(bayAt(bay))
	if err != nil {
		h.t.Fatal(err)
	}
	defer dev.Close()
	if err := dev.SetOverride(operate.Unoffered); err != nil {
		h.t.Fatal(err)
	}
	h.kept = true
}

// byHand is a request about the device in a bay, without the daemon.
func (h *house) byHand(bay int) operate.Request {
	h.t.Helper()
	dev, err := h.FS().Open(bayAt(bay))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { dev.Close() })
	return operate.Request{Device: dev, Arrival: operate.ByHand}
}
