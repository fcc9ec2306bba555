package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"

	"vfio-hotplug/internal/vmtest"
)

// upgradesUnderUse upgrades the package while QEMU reads a drive through vfio:
// no read fails, nobody rebinds the drive, and what the daemon knew and armed it
// knows and has armed afterwards.
func (h *house) upgradesUnderUse() {
	h.t.Helper()
	const bay = stubBay
	address := h.Address(bay)
	entry := "/run/vfio-hotplug/devices/" + address + ".json"
	ledger, armed := h.ReadFile(entry), h.armed()
	mark := h.Mark()

	reader := h.read(address)
	before := h.completions(address)
	h.slowly("apt-get", "-q", "-y", "install", newerInGuest)
	if said := h.Do(program, "--version"); !strings.Contains(said, newerVersion) {
		h.t.Errorf("upgraded, it is %s", said)
	}
	h.guard("stub")
	h.taken(bay, "vfio-pci")
	after := h.completions(address)
	h.WaitFor("reads after the upgrade", func(context.Context) (bool, error) { return h.completions(address) > after, nil })
	reader.Signal(syscall.SIGTERM)
	if f := reader.Wait(); f.Signal != syscall.SIGTERM.String() {
		h.t.Errorf("the reader ended by itself, with exit code %d", f.Code)
	}
	for _, line := range reader.Output() {
		if line.Stream == "stderr" {
			h.t.Errorf("the reader says %q", line.Text)
		}
	}
	figure("%s: %d interrupts of reads through vfio during an upgrade, no read failed", h.t.Name(), after-before)

	for _, action := range []string{"bind", "unbind", "remove"} {
		if events := h.Uevents(mark, vmtest.Match{Action: action, Subsystem: "pci", Devpath: address}); len(events) > 0 {
			h.t.Errorf("%s of a drive that is read from: %v", action, events)
		}
	}
	if now := h.ReadFile(entry); now != ledger {
		h.t.Errorf("the ledger was\n%s and is\n%s", ledger, now)
	}
	h.wantNode(h.groupNode(bay), "vfio")
	if now := h.armed(); now != armed {
		h.t.Errorf("the guard had armed\n%s and has\n%s", armed, now)
	}
	h.plugDirect(stormBay)
	h.Unplug(stormBay)
}

// armed gives what the guard's record says is armed. What it was armed with
// before, a new daemon forgets.
func (h *house) armed() string {
	h.t.Helper()
	var record struct {
		IDs  json.RawMessage `json:"ids"`
		Gate bool            `json:"gate"`
	}
	if err := json.Unmarshal([]byte(h.ReadFile("/run/vfio-hotplug/guard.json")), &record); err != nil {
		h.t.Fatal(err)
	}
	return fmt.Sprintf("gate %v, %s", record.Gate, record.IDs)
}

// read has QEMU read a drive through vfio until it is stopped: the first read
// that fails ends it. On an emulated IOMMU, of every two that begin one gets
// none of its interrupts, whoever bound the drive: then another begins.
func (h *house) read(address string) *vmtest.LabProcess {
	h.t.Helper()
	for range 20 {
		reader := h.Start(vmtest.Background{Argv: []string{"sh", "-c",
			`exec qemu-img bench -c 2000000000 -f raw "$1" </dev/null`, "sh", "nvme://" + address + "/1"}})
		ctx, cancel := context.WithTimeout(h.t.Context(), 15*time.Second)
		err := h.Guest.WaitFor(ctx, "an interrupt", func(context.Context) (bool, error) { return h.completions(address) > 0, nil })
		cancel()
		if err == nil {
			return reader
		}
		if !errors.Is(err, context.DeadlineExceeded) || vmtest.KVM(h.Config().Kernel) {
			h.t.Fatal(err)
		}
		h.Account(vmtest.Entry{What: vmtest.EmulatorFault, Fault: "a read through vfio gets no interrupt"})
		reader.Signal(syscall.SIGKILL)
		reader.Wait()
	}
	h.t.Fatalf("QEMU cannot read %s through vfio", address)
	return nil
}

// completions gives how many interrupts a drive has sent to whoever has it
// through vfio: it does so when reads are complete.
func (h *house) completions(address string) int {
	h.t.Helper()
	sum := 0
	for line := range strings.Lines(h.ReadFile("/proc/interrupts")) {
		if !strings.Contains(line, "vfio-msi") || !strings.Contains(line, "("+address+")") {
			continue
		}
		for _, field := range strings.Fields(line)[1:] {
			n, err := strconv.Atoi(field)
			if err != nil {
				break
			}
			sum += n
		}
	}
	return sum
}
