package inuse_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"vfio-hotplug/internal/inuse"
	"vfio-hotplug/internal/ledger"
	"vfio-hotplug/internal/operate"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfstest"
	"vfio-hotplug/policy"
)

// rounds in which a drive is taken.
const rounds = 1000

// TestNobodyClaimsADriveThatIsTaken: somebody claims the drive's block device,
// as a mount does, and lets it go again, in a tight loop, while it is taken. As
// long as one has it, the drive stays with nvme.
func TestNobodyClaimsADriveThatIsTaken(t *testing.T) {
	m := newRace(t)
	refusals := 0
	for range rounds {
		m.kernel.Plug(m.drive, sysfstest.Drive{Namespaces: []sysfstest.Namespace{{ID: 1, Sectors: 16384}}})
		select {
		case m.plugged <- struct{}{}:
		default: // it has not needed the last one
		}
		for taken := false; !taken; {
			switch result := m.take(); {
			case result.Outcome == operate.Taken:
				taken = true
			case result.Outcome == operate.Refused && strings.Contains(result.Reason, "claimed"):
				refusals++
			default:
				t.Fatalf("%s: %s", result.Outcome, result.Reason)
			}
		}
		m.kernel.Unplug(m.drive)
	}
	if refusals == 0 {
		t.Error("the other one has never been in the way: the race was none")
	}
	if both := m.both.Load(); both > 0 {
		t.Errorf("%d of %d claims had the drive taken away", both, m.claims.Load())
	}
	t.Logf("%d drives taken, %d refusals, %d claims", rounds, refusals, m.claims.Load())
}

// race is a model machine on which somebody else wants a drive too.
type race struct {
	t        *testing.T
	drive    pci.Address
	kernel   *sysfstest.Kernel
	operator *operate.Operator
	policy   *policy.Policy
	node     string

	plugged      chan struct{} // tells the other one of a drive
	claims, both atomic.Int64
}

func newRace(t *testing.T) *race {
	t.Helper()
	root := t.TempDir()
	m := &race{t: t, drive: pci.Address{Bus: 1}, kernel: sysfstest.New(sysfstest.Options{}), plugged: make(chan struct{}, 1), node: filepath.Join(root, "dev/nvme0n1")}
	m.kernel.AddBay(sysfstest.Bay{Address: m.drive})
	for name, text := range map[string]string{"dev/nvme0n1": "", "dev/nvme0": "", "proc/1/mountinfo": "", "proc/1/fd/keep": "", "proc/swaps": "", "sys/keep": ""} {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(root, filepath.Join(root, "proc/1/root")); err != nil {
		t.Fatal(err)
	}
	book, err := ledger.Open(filepath.Join(root, "run"), "/proc")
	if err != nil {
		t.Fatal(err)
	}
	m.policy, err = policy.Parse("policy.toml", []byte("[[rule]]\nname = \"all\"\nmatch = { class = \"nvme\" }\ntakeover = \"idle\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	m.operator = &operate.Operator{
		FS: m.kernel.FS(), Ledger: book, Uses: inuse.NewOnModel(m.kernel.Root(), root),
		Load:    func(_ context.Context, module string) error { return m.kernel.LoadModule(module) },
		Aliases: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("")), nil },
		Dev:     filepath.Join(root, "dev"), Proc: "/proc", Limit: operate.DefaultLimits(),
	}
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		m.claimOn(stop)
	}()
	t.Cleanup(func() { close(stop); <-ended })
	return m
}

func (m *race) take() operate.Result {
	m.t.Helper()
	dev, err := m.kernel.FS().Open(m.drive)
	if err != nil {
		m.t.Fatal(err)
	}
	defer dev.Close()
	return m.operator.Take(m.t.Context(), operate.Request{Device: dev, Policy: func() *policy.Policy { return m.policy }})
}

// onNVMe reports whether there is a drive and nvme has it.
func (m *race) onNVMe() bool {
	target, err := m.kernel.Root().Readlink("bus/pci/devices/" + m.drive.String() + "/driver")
	return err == nil && filepath.Base(target) == "nvme"
}

// claimOn claims the block device of each drive for as long as nvme has it, again
// and again, each time for as long as it takes to look whether it stays.
func (m *race) claimOn(stop <-chan struct{}) {
	for {
		if !m.onNVMe() {
			select {
			case <-m.plugged:
			case <-stop:
				return
			}
		}
		file, err := inuse.ClaimNode(m.node)
		if err != nil {
			continue
		}
		// Only now is it known that the open was of a device, and not of one that
		// has gone.
		if m.onNVMe() {
			for range 10 {
				if !m.onNVMe() {
					m.both.Add(1)
					break
				}
			}
			m.claims.Add(1)
		}
		file.Close()
	}
}
