// Package scenario runs the program in guests with real kernels: drives come
// and go, and each must end where the policy wants it, whoever was faster.
package scenario

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"vfio-hotplug/internal/control"
	"vfio-hotplug/internal/vmtest"
)

const program = "/usr/sbin/vfio-hotplug"

// everyNVMe is the policy of most scenarios: every drive, and no guard, so that
// both ends of the race are seen.
const everyNVMe = `
[guard]
mode = "race"

[[rule]]
name  = "every drive"
match = { class = "nvme" }
`

// build compiles the program once for all scenarios.
var build = sync.OnceValues(func() (string, error) { return vmtest.Build("vfio-hotplug/cmd/vfio-hotplug") })

// house is a guest in which the daemon runs.
type house struct {
	*vmtest.Lab
	t      *testing.T
	daemon *vmtest.LabProcess
	stays  []string // addresses that nobody may write to
}

// modules is the order in which a server with nvme in use loads them: nvme
// first, which on kernels before 6.17 gives nvme the first word.
func modules() []string { return []string{"nvme", "vfio-pci", "vfio_iommu_type1"} }

// enter boots a guest with the program and a policy, and starts the daemon.
func enter(t *testing.T, config vmtest.Config, policy string) *house {
	t.Helper()
	h := boot(t, config, policy)
	h.start()
	return h
}

// boot boots a guest with the program and a policy. Every write below /sys is
// traced from then on.
func boot(t *testing.T, config vmtest.Config, policy string) *house {
	t.Helper()
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "policy.toml")
	if err := os.WriteFile(file, []byte(policy), 0o644); err != nil {
		t.Fatal(err)
	}
	if config.Files == nil {
		config.Files = map[string]string{}
	}
	config.Files[program] = binary
	config.Files["/etc/vfio-hotplug/policy.toml"] = file
	h := &house{Lab: vmtest.Boot(t, config), t: t}
	h.TraceWrites()
	return h
}

// start starts the daemon and waits until it is ready.
func (h *house) start() {
	h.t.Helper()
	h.daemon = h.Start(vmtest.Background{Argv: []string{program, "daemon", "--debug"}, Notify: true})
	h.daemon.WaitReady()
}

// leaveAlone says that the device in a bay is none of the program's business:
// done fails the test if anybody has written to it.
func (h *house) leaveAlone(bay int) string {
	h.t.Helper()
	address := h.Address(bay)
	h.stays = append(h.stays, address)
	return address
}

// leftAlone waits until the daemon has logged that it leaves the device in a
// bay alone.
func (h *house) leftAlone(bay int) {
	h.t.Helper()
	h.daemon.WaitLine("left " + regexp.QuoteMeta(h.Address(bay)) + " alone")
}

// settled waits until status says one of the outcomes of the device in a bay,
// which a rule names, and gives what it says.
func (h *house) settled(bay int, outcomes ...string) control.Device {
	h.t.Helper()
	return h.settledAt(h.Address(bay), outcomes...)
}

// settledAt is settled for the device at a PCI address.
func (h *house) settledAt(address string, outcomes ...string) control.Device {
	h.t.Helper()
	var last control.Device
	h.WaitFor(fmt.Sprintf("%s to be %s", address, strings.Join(outcomes, " or ")), func(ctx context.Context) (bool, error) {
		reply, err := h.status(ctx)
		for _, d := range reply.Devices {
			if d.Address == address {
				last = d
				return slices.Contains(outcomes, d.Outcome), nil
			}
		}
		return false, err
	})
	return last
}

// taken waits until the drive in a bay is under a driver, checks that its node
// is there, and counts how it came.
func (h *house) taken(bay int, driver string) control.Device {
	h.t.Helper()
	d := h.settled(bay, "direct", "taken")
	if d.Driver != driver || h.Driver(bay) != driver {
		h.t.Errorf("bay %d: status says driver %q, sysfs says %q, want %s", bay, d.Driver, h.Driver(bay), driver)
	}
	if d.Node == "" || !h.Exists(d.Node) {
		h.t.Errorf("bay %d: node %q is not there", bay, d.Node)
	}
	count(h.Config().Kernel.Name, d.Outcome)
	return d
}

// status asks the daemon for the guard and for the devices that the policy
// names.
func (h *house) status(ctx context.Context) (control.StatusReply, error) {
	var reply control.StatusReply
	f, err := h.Guest.Run(ctx, vmtest.Command{Argv: []string{program, "status", "--json"}})
	if err != nil {
		return reply, err
	}
	if err := json.Unmarshal(f.Stdout, &reply); err != nil {
		return reply, fmt.Errorf("status --json: %w in %s%s", err, f.Stdout, f.Stderr)
	}
	return reply, nil
}

// refused runs a command that must end with exit code 3 and these words.
func (h *house) refused(words string, argv ...string) {
	h.t.Helper()
	f := h.Run(append([]string{program}, argv...)...)
	if f.Code != 3 || !strings.Contains(string(f.Stderr), words) {
		h.t.Errorf("%s: exit code %d, %s%s; want 3 and %q", strings.Join(argv, " "), f.Code, f.Stdout, f.Stderr, words)
	}
}

// done stops the daemon and checks that nobody wrote to what stays.
func (h *house) done() {
	h.t.Helper()
	if f := h.daemon.Stop(); f.Code != 0 {
		h.t.Errorf("the daemon ended with %d %s", f.Code, f.Signal)
	}
	h.nobodyWroteTo(h.stays...)
}

// nobodyWroteTo looks through the trace of every write below /sys, by any
// process but the laboratory's own agent.
func (h *house) nobodyWroteTo(addresses ...string) {
	h.t.Helper()
	ours := 0
	for _, w := range h.Writes() {
		if w.Command == "init" {
			continue
		}
		ours++
		for _, address := range addresses {
			if strings.Contains(w.Path, address+"/") || strings.Contains(w.Data, address) {
				h.t.Errorf("%s (process %d) wrote %q to %s", w.Command, w.PID, w.Data, w.Path)
			}
		}
	}
	h.t.Logf("%d writes below /sys, none of them to %v", ours, addresses)
}

// tally counts outcomes by kernel.
var tally struct {
	sync.Mutex
	of map[string]map[string]int
}

func count(kernel, outcome string) {
	tally.Lock()
	defer tally.Unlock()
	if tally.of == nil {
		tally.of = map[string]map[string]int{}
	}
	if tally.of[kernel] == nil {
		tally.of[kernel] = map[string]int{}
	}
	tally.of[kernel][outcome]++
}

func TestMain(m *testing.M) {
	code := m.Run()
	for kernel, outcomes := range tally.of {
		fmt.Printf("outcomes on %s: %d direct, %d taken\n", kernel, outcomes["direct"], outcomes["taken"])
	}
	os.Exit(code)
}
