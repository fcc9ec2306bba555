package daemon_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

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
