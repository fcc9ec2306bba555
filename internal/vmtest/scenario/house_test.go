// Package scenario runs the program in guests with real kernels: drives come
// and go, and each must end where the policy wants it, whoever was faster.
package scenario

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vfio-hotplug/internal/control"
	"vfio-hotplug/internal/guard"
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
	// The bays whose devices the policy names, nil for all, and those of others
	// that the daemon may have the kernel match. To whatever else there is nobody
	// may write: see checkWrites.
	named, probed []int
	others        []string // addresses of further functions, to which those may write who may to the bay
	stays         []string // addresses that nobody may write to although they are named
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
	// From here on every write below /sys has to be allowed.
	h.TraceWrites()
	return h
}

// start starts the daemon, with more in its environment, and waits until it is
// ready.
func (h *house) start(env ...string) {
	h.t.Helper()
	h.daemon = h.Start(vmtest.Background{Argv: []string{program, "daemon", "--debug"}, Env: env, Notify: true})
	h.daemon.WaitReady()
}

// leaveAlone says that the device in a bay, although the policy names it, is to
// be left as it is: done fails the test if anybody has written to it.
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
	count(h.Config().Kernel.String(), d.Outcome)
	return d
}

// status asks for the guard and for the devices that the policy names: the
// daemon through its socket, many times a second, or without one the program.
func (h *house) status(ctx context.Context) (control.StatusReply, error) {
	ask := []byte(`{"method":"` + control.MethodStatus + "\"}\x00")
	said, err := h.Guest.Exchange(ctx, "/run/vfio-hotplug/socket", ask, 0)
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
		return h.statusByProgram(ctx)
	}
	var answer struct {
		Parameters control.StatusReply
		Error      string
	}
	if err == nil {
		err = json.Unmarshal(bytes.TrimSuffix(said, []byte{0}), &answer)
	}
	if err == nil && answer.Error != "" {
		err = errors.New(answer.Error)
	}
	if err != nil {
		return answer.Parameters, fmt.Errorf("ask the daemon: %w, in %q", err, said)
	}
	return answer.Parameters, nil
}

func (h *house) statusByProgram(ctx context.Context) (control.StatusReply, error) {
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

// done stops the daemon, after status --json has said the same as the daemon's
// socket, and checks that nobody wrote to what no rule names.
func (h *house) done() {
	h.t.Helper()
	h.statusAgrees()
	if f := h.daemon.Stop(); f.Code != 0 {
		h.t.Errorf("the daemon ended with %d %s", f.Code, f.Signal)
	}
	h.checkWrites()
}

// statusAgrees waits until both ways to ask for the status say the same: what is
// under way may change in between.
func (h *house) statusAgrees() {
	h.t.Helper()
	h.WaitFor("status --json to say what the socket says", func(ctx context.Context) (bool, error) {
		bySocket, err := h.status(ctx)
		byProgram, programErr := h.statusByProgram(ctx)
		return cmp.Equal(bySocket, byProgram), errors.Join(err, programErr)
	})
}

// unplug takes out what a bay holds. It waits until nvme, if it has the drive,
// has made its disk: Linux 6.1 goes on with that after the bind, and crashes
// when the drive goes meanwhile.
func (h *house) unplug(bay int) {
	h.t.Helper()
	h.settleNVMe(bay)
	h.Unplug(bay)
}

func (h *house) settleNVMe(bay int) {
	h.t.Helper()
	if h.Driver(bay) == "nvme" {
		h.waitBlock(bay)
	}
}

// direct waits until the daemon says of the drive in a bay that it came directly
// to vfio-pci.
func (h *house) direct(bay int) {
	h.t.Helper()
	if d := h.taken(bay, "vfio-pci"); d.Outcome != "direct" {
		h.t.Errorf("bay %d: status says %s, want direct", bay, d.Outcome)
	}
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

// figures are what scenarios have measured: lines for the end of the run,
// where make proof finds them.
var figures struct {
	sync.Mutex
	lines []string
}

func figure(format string, a ...any) {
	figures.Lock()
	defer figures.Unlock()
	figures.lines = append(figures.lines, fmt.Sprintf(format, a...))
}

// synchronousFirst reports whether a kernel offers a new device to vfio-pci and
// pci-stub before nvme, whoever was registered first.
func synchronousFirst(k vmtest.Kernel) bool { return release(k).Least(6, 17) }

// gateHonoured reports whether a kernel lets new devices wait.
func gateHonoured(k vmtest.Kernel) bool { return release(k).Least(6, 19) }

// release gives a kernel's version. One that cannot be read is an old one, and
// its tests fail.
func release(k vmtest.Kernel) guard.Release {
	r, err := guard.ParseRelease(k.Release)
	if err != nil {
		return guard.Release{}
	}
	return r
}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, line := range figures.lines {
		fmt.Println("figure: " + line)
	}
	for _, kernel := range slices.Sorted(maps.Keys(tally.of)) {
		outcomes := tally.of[kernel]
		fmt.Printf("outcomes on %s: %d direct, %d taken\n", kernel, outcomes["direct"], outcomes["taken"])
	}
	os.Exit(code)
}
