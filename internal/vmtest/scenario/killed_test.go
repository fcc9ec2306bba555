package scenario

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"vfio-hotplug/internal/control"
	"vfio-hotplug/internal/vmtest"
)

// TestGuestKilled: the daemon is killed at random moments while drives come, go
// and are released, without a guard and with one. Whatever it was doing, the
// next one finds every drive, brings it to where it belongs, and has a ledger
// that says just that. A reload with faults changes nothing.
func TestGuestKilled(t *testing.T) {
	rounds := 5
	if proof() {
		rounds = 100
	}
	vmtest.EachKernel(t, func(t *testing.T, k vmtest.Kernel) {
		seed := uint64(time.Now().UnixNano())
		t.Logf("seed %d", seed)
		h := boot(t, vmtest.Config{Kernel: k, Modules: guardOrder()}, policyFor("race", 0, 2))
		h.police("stub", []int{0, 2})
		s := &siege{house: h, random: rand.New(rand.NewPCG(seed, 0)), bays: map[int]occupant{}}
		for _, mode := range []string{"race", "stub"} {
			h.CreateFile("/etc/vfio-hotplug/policy.toml", policyFor(mode, 0, 2), 0o644)
			h.start()
			h.daemon.WaitLine("guard " + mode + ":")
			for range rounds {
				s.round()
			}
			h.CreateFile("/etc/vfio-hotplug/policy.toml", "[[rule]]\nnme = 1\n", 0o644)
			h.daemon.Signal(syscall.SIGHUP)
			h.daemon.WaitLine("policy not reloaded")
			s.judge()
			h.daemon.Stop()
		}
		h.checkWrites()
		figure("killed on %s: %d times, %d plugs, %d unplugs and %d releases under way, seed %d: %d drives wrong",
			k, 2*rounds, s.plugs, s.unplugs, s.releases, seed, s.wrong)
	})
}

// siege kills daemons. The policy wants the even bays.
type siege struct {
	*house
	random                          *rand.Rand
	bays                            map[int]occupant
	plugs, unplugs, releases, wrong int
}

// occupant is what a bay holds.
type occupant int

const (
	nobody   occupant = iota
	drive             // to be where the policy wants it
	released          // by hand, as far as the daemon got to it
)

const besieged = 4

// round has something happen in every bay, kills the daemon meanwhile, and
// starts another.
func (s *siege) round() {
	s.t.Helper()
	dead := make(chan struct{})
	delay := time.Duration(s.random.IntN(1500)) * time.Millisecond
	time.AfterFunc(delay, func() {
		defer close(dead)
		ctx, cancel := s.Step()
		defer cancel()
		if err := s.daemon.Process.Signal(ctx, syscall.SIGKILL); err != nil {
			s.t.Errorf("kill the daemon: %v", err)
		}
	})
	out := newTurnover(s.house)
	for bay := range besieged {
		wanted := bay%2 == 0
		switch was := s.bays[bay]; {
		case was == nobody:
			s.plugs++
			s.Plug(bay, vmtest.Device{})
			s.bays[bay] = drive
		case was == drive && wanted && s.random.IntN(2) == 0:
			s.releases++
			s.Run(program, "release", s.Address(bay))
			s.bays[bay] = released
		default:
			s.unplugs++
			out.unplug(bay)
			s.bays[bay] = nobody
		}
	}
	<-dead
	s.daemon.Wait()
	out.emptyAll()
	s.start()
	s.judge()
}

// judge waits until every drive is where it belongs, and the ledger has those
// that are bound and no other.
func (s *siege) judge() {
	s.t.Helper()
	var fault string
	ctx, cancel := s.Step()
	defer cancel()
	err := s.Guest.WaitFor(ctx, "every drive to be where it belongs", func(ctx context.Context) (bool, error) {
		var err error
		fault, err = s.fault(ctx)
		return fault == "", err
	})
	if err != nil {
		s.wrong++
		s.t.Fatalf("%v: %s", err, fault)
	}
}

// fault says what is wrong, "" for nothing.
func (s *siege) fault(ctx context.Context) (string, error) {
	reply, err := s.status(ctx)
	if err != nil {
		return "", err
	}
	entries, err := s.entries(ctx)
	if err != nil {
		return "", err
	}
	for bay := range besieged {
		if s.bays[bay] == nobody {
			continue
		}
		address, err := s.Guest.Address(ctx, bay)
		if err != nil {
			return "", err
		}
		driver, err := s.Guest.Driver(ctx, bay)
		if err != nil {
			return fmt.Sprintf("bay %d: %v", bay, err), absent(err)
		}
		stage, entered := entries[address]
		delete(entries, address)
		i := slices.IndexFunc(reply.Devices, func(d control.Device) bool { return d.Address == address })
		switch {
		case driver == "nvme" && !entered && (bay%2 != 0 || s.bays[bay] == released):
		case driver == "vfio-pci" && stage == "taken" && bay%2 == 0 && i >= 0 && reply.Devices[i].Driver == driver:
		default:
			return fmt.Sprintf("bay %d, %s: driver %q, stage %q in the ledger, %+v", bay, address, driver, stage, reply.Devices), nil
		}
	}
	if len(entries) > 0 {
		return fmt.Sprintf("the ledger speaks of %v", entries), nil
	}
	return "", nil
}

// entries gives the stages that the ledger has of devices.
func (s *siege) entries(ctx context.Context) (map[string]string, error) {
	files, err := s.Guest.Glob(ctx, "/run/vfio-hotplug/devices/*")
	if err != nil {
		return nil, err
	}
	entries := map[string]string{}
	for _, file := range files {
		if strings.HasSuffix(file, ".tmp") { // of a writer that was killed
			continue
		}
		text, err := s.Guest.ReadFile(ctx, file)
		if err != nil {
			return nil, absent(err)
		}
		var sheet struct{ Record struct{ Stage string } }
		if err := json.Unmarshal([]byte(text), &sheet); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		entries[strings.TrimSuffix(path.Base(file), ".json")] = sheet.Record.Stage
	}
	return entries, nil
}

// absent takes "is not there" for an answer: it is looked at again.
func absent(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}
