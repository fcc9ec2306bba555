package scenario

import (
	"encoding/json"
	"fmt"
	"path"
	"strings"
	"testing"

	"vfio-hotplug/internal/vmtest"
)

// TestGuestAVFIsWhereItsPhysicalFunctionIs: the kernel makes eight virtual
// functions, of which the last has another device number. Each is known for one by
// the attribute that it has from its first event on, and is in the slot of its
// physical function, where a rule that leaves finds it.
func TestGuestAVFIsWhereItsPhysicalFunctionIs(t *testing.T) {
	vmtest.EachKernel(t, func(t *testing.T, k vmtest.Kernel) {
		const bay, count = 1, 8
		h := boot(t, vmtest.Config{Kernel: k, Bays: 2, Modules: modules(), Args: []string{
			"-device", "nvme-subsys,id=virtual",
			"-device", fmt.Sprintf("nvme,id=virtual0,serial=VIRTUAL,subsys=virtual,bus=rp%d,sriov_max_vfs=%d,"+
				"sriov_vq_flexible=%d,sriov_vi_flexible=%[2]d,max_ioqpairs=%[4]d,msix_qsize=%[5]d", bay, count, 2*count, 2*count+2, count+2),
		}}, everyNVMe)
		h.WaitDriver(bay, "nvme")
		pf := h.Address(bay)
		dir := "/sys/bus/pci/devices/" + pf
		h.sh(`echo "$1" >"$2/sriov_numvfs"`, fmt.Sprint(count), dir)
		vfs := h.Glob(dir + "/virtfn*")
		if len(vfs) != count || h.Exists(dir+"/sriov_vf_msix_count") {
			t.Fatalf("virtual functions of %s are %v, and it is one itself: %v", pf, vfs, h.Exists(dir+"/sriov_vf_msix_count"))
		}
		slots := h.slots()
		if slots[pf] == "" {
			t.Fatalf("%s is in no slot: %v", pf, slots)
		}
		policy := "/run/slot.toml"
		h.CreateFile(policy, fmt.Sprintf("[[rule]]\nname = \"stays\"\nmatch = { slot = %q }\naction = \"leave\"\n%s", slots[pf], everyNVMe), 0o644)
		otherDevice := 0
		for _, vf := range vfs {
			address := path.Base(strings.TrimSpace(h.Do("readlink", vf)))
			if !strings.HasPrefix(address, pf[:len(pf)-1]) {
				otherDevice++
			}
			if !h.Exists(vf + "/sriov_vf_msix_count") {
				t.Errorf("%s has no sriov_vf_msix_count", address)
			}
			if slots[address] != slots[pf] {
				t.Errorf("%s is in slot %q, and its physical function in %q", address, slots[address], slots[pf])
			}
			if said := h.Do(program, "explain", "--policy", policy, address); !strings.Contains(said, `=> "stays": matches`) {
				t.Errorf("of %s explain says\n%s", address, said)
			}
		}
		if otherDevice == 0 {
			t.Errorf("all of %v have the device number of %s: nothing was shown", vfs, pf)
		}
	})
}

// slots gives the slot of each device of the machine by its address.
func (h *house) slots() map[string]string {
	h.t.Helper()
	var reply struct {
		Devices []struct{ Address, Slot string }
	}
	text := h.Do(program, "status", "--all", "--json")
	if err := json.Unmarshal([]byte(text), &reply); err != nil {
		h.t.Fatalf("status --json: %v in %s", err, text)
	}
	slots := map[string]string{}
	for _, d := range reply.Devices {
		slots[d.Address] = d.Slot
	}
	return slots
}

// TestGuestWhatCannotBeReadIsTold: root without CAP_SYS_ADMIN reads the first 64
// bytes of config space and no error. A rule by serial number is then undecided,
// and with the capability it matches.
func TestGuestWhatCannotBeReadIsTold(t *testing.T) {
	vmtest.EachKernel(t, func(t *testing.T, k vmtest.Kernel) {
		card := vmtest.NIC()
		card.Props["mac"] = "52:54:00:12:34:56" // of which QEMU's card makes its serial number
		h := boot(t, vmtest.Config{Kernel: k, Bays: 2, Modules: modules(), Devices: map[int]vmtest.Device{1: card}, Programs: []string{"setpriv"}}, everyNVMe)
		policy := "/run/card.toml"
		h.CreateFile(policy, "[[rule]]\nname = \"card\"\nmatch = { dsn = \"52-54-00-ff-ff-12-34-56\" }\naction = \"leave\"\n[[rule]]\nname = \"any\"\nmatch = { class = \"nic\" }\n", 0o644)
		explain := []string{program, "explain", "--policy", policy, h.Address(1)}
		if said := h.Do(explain...); !strings.Contains(said, `=> "card": matches: the device is left alone`) {
			t.Errorf("with every capability explain says\n%s", said)
		}
		said := h.Do(append([]string{"setpriv", "--bounding-set=-sys_admin"}, explain...)...)
		for _, want := range []string{`?? "card": dsn cannot be read: config space ends at 64 bytes`, "=> refused: "} {
			if !strings.Contains(said, want) {
				t.Errorf("without CAP_SYS_ADMIN explain says\n%s\nwant %q in it", said, want)
			}
		}
	})
}
