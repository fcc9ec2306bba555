package inuse

import (
	"strings"
	"testing"

	"vfio-hotplug/internal/pci"
)

const cxlRoot = "devices/platform/ACPI0017:00/root0"

// cxl makes the device CXL memory, mem0, with one decoder, as the kernel shows it
// (Documentation/ABI/testing/sysfs-bus-cxl).
func (m *machine) cxl(size, region string) {
	m.node("mem0", "252:0")
	m.linkTo(home+"/mem0/subsystem", "bus/cxl")
	m.linkTo("bus/cxl/devices/mem0", home+"/mem0")
	const endpoint = cxlRoot + "/port1/endpoint2"
	m.linkTo(endpoint+"/uport", home+"/mem0")
	m.file("sys/"+endpoint+"/decoder2.0/size", size+"\n")
	m.file("sys/"+endpoint+"/decoder2.0/region", region+"\n")
	m.linkTo("bus/cxl/devices/endpoint2", endpoint)
	// Of another device.
	const other = cxlRoot + "/port1/endpoint3"
	m.linkTo(other+"/uport", "devices/pci0000:00/0000:09:00.0/mem1")
	m.file("sys/"+other+"/decoder3.0/size", "0x40000000\n")
	m.file("sys/"+other+"/decoder3.0/region", "region7\n")
	m.linkTo("bus/cxl/devices/endpoint3", other)
}

// dax gives a region its dax device, on a driver.
func (m *machine) dax(region, driver string) {
	where := cxlRoot + "/decoder0.0/" + region + "/dax_" + region + "/dax0.0"
	m.linkTo(where+"/driver", "bus/dax/drivers/"+driver)
	m.linkTo("bus/cxl/devices/"+region, cxlRoot+"/decoder0.0/"+region)
}

func TestMemoryThatTheMachineHasIsAUse(t *testing.T) {
	const unchecked = "not checked: who uses a device of class 0x050210 on cxl_pci"
	for _, c := range []struct {
		name string
		make func(*machine)
		says string
		veto bool
	}{
		{"not mapped", func(m *machine) { m.cxl("0x0", "") }, "no use found; " + unchecked, false},
		{"online as RAM", func(m *machine) {
			m.cxl("0x40000000", "region0")
			m.dax("region0", "kmem")
		}, "mem0 → region0 → dax0.0 (kmem); " + unchecked, true},
		{"for programs", func(m *machine) {
			m.cxl("0x40000000", "region0")
			m.dax("region0", "device_dax")
		}, "mem0 → region0 → dax0.0 (device_dax); " + unchecked, true},
		{"in a region of which nothing shows", func(m *machine) { m.cxl("0x40000000", "region0") }, "mem0 → region0; " + unchecked, true},
		{"mapped by the firmware", func(m *machine) { m.cxl("0x40000000", "") }, "mem0 → decoder2.0; " + unchecked, true},
		{"a decoder that cannot be read", func(m *machine) { m.cxl("much", "") },
			`what memory of mem0 the machine has cannot be told: strconv.ParseUint: parsing "much": invalid syntax; ` + unchecked, true},
		{"no decoder is shown", func(m *machine) {
			m.cxl("0x0", "")
			m.remove("sys/bus/cxl/devices/endpoint2")
		}, "what memory of mem0 the machine has cannot be told: no decoder of it is shown; " + unchecked, true},
		{"the bus is not shown", func(m *machine) {
			m.node("mem0", "252:0")
		}, "what memory of mem0 the machine has cannot be told: no decoder of it is shown; " + unchecked, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := bare(t)
			c.make(m)
			report, _, err := m.look("cxl_pci", pci.Class(0x050210), forIdle)
			must(t, err)
			if report.String() != c.says || report.Veto() != c.veto {
				t.Errorf("veto %v, report\n%s\nwant %v\n%s", report.Veto(), report, c.veto, c.says)
			}
			if report.Veto() && !strings.Contains(report.Remedy(), "cxl list") {
				t.Errorf("remedy %q", report.Remedy())
			}
		})
	}
}

// What a hypervisor has plugged into its guest (virtio-mem).
func TestMemoryOfAHypervisorIsAUse(t *testing.T) {
	for driver, veto := range map[string]bool{"virtio_mem": true, "virtio_rng": false} {
		m := bare(t)
		m.linkTo(home+"/virtio3/driver", "bus/virtio/drivers/"+driver)
		report, _, err := m.look("virtio-pci", pci.Class(0x00ff00), forIdle)
		must(t, err)
		if report.Veto() != veto || veto && !strings.HasPrefix(report.String(), "virtio3 → memory of the machine") {
			t.Errorf("%s: veto %v, report %s", driver, report.Veto(), report)
		}
	}
}
