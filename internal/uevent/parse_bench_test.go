package uevent

import "testing"

const pciAdd = "add@/devices/pci0000:00/0000:00:02.0/0000:01:00.0\x00" +
	"ACTION=add\x00" +
	"DEVPATH=/devices/pci0000:00/0000:00:02.0/0000:01:00.0\x00" +
	"SUBSYSTEM=pci\x00" +
	"PCI_CLASS=10802\x00" +
	"PCI_ID=144D:A804\x00" +
	"PCI_SUBSYS_ID=144D:A801\x00" +
	"PCI_SLOT_NAME=0000:01:00.0\x00" +
	"MODALIAS=pci:v0000144Dd0000A804sv0000144Dsd0000A801bc01sc08i02\x00" +
	"SEQNUM=4021\x00"

func BenchmarkParsePCIAdd(b *testing.B) {
	raw := []byte(pciAdd)
	var ev Event
	b.ReportAllocs()
	for b.Loop() {
		if err := Parse(raw, &ev); err != nil {
			b.Fatal(err)
		}
	}
}
