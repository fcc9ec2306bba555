package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"vfio-hotplug/internal/ledger"
	"vfio-hotplug/internal/pci"
)

// BenchmarkUdev starts the helper in turn with a Go program that does nothing:
// for a drive that the policy names, as udev does at boot for every device that
// has no driver, and for the node of a group of four. It reports how many times as
// long the helper takes, by the medians, since other work on the machine lengthens
// single runs.
func BenchmarkUdev(b *testing.B) {
	dir := b.TempDir()
	write := func(name, text string) {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	write("empty/main.go", "package main\n\nfunc main() {}\n")
	write("root/run/vfio-hotplug/coldplug", "")
	write("root/sys/bus/pci/devices/0000:01:00.0/modalias", "pci:v0000144Dd0000A804sv0000144Dsd0000A801bc01sc08i02\n")
	write("root/etc/vfio-hotplug/policy.toml", "[[rule]]\nname = \"bays\"\nmatch = { class = \"nvme\" }\n")
	build := func(program, source string) string {
		program = filepath.Join(dir, program)
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, source)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, text)
		}
		return program
	}
	root := filepath.Join(dir, "root")
	ofFour(b, root)
	helper := build("helper", ".")
	empty := []string{build("nothing", filepath.Join(dir, "empty/main.go"))}
	took := func(argv []string) time.Duration {
		start := time.Now()
		if text, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, text)
		}
		return time.Since(start)
	}
	for name, argv := range map[string][]string{
		"device": {helper, udevCommand, "0000:01:00.0", root},
		"node":   {helper, nodeCommand, "7", root},
	} {
		b.Run(name, func(b *testing.B) {
			var helped, nothing []time.Duration
			for b.Loop() {
				helped, nothing = append(helped, took(argv)), append(nothing, took(empty))
			}
			b.ReportMetric(float64(median(helped))/float64(median(nothing)), "×empty")
			b.ReportMetric(float64(median(helped).Microseconds()), "µs/helper")
		})
	}
}

// ofFour makes IOMMU group 7 with four devices of ours in it.
func ofFour(b *testing.B, root string) {
	g := grouped{machine: machine{root: root}, t: b}
	g.must(os.MkdirAll(g.path("sys/kernel/iommu_groups/7/devices"), 0o755))
	var err error
	g.book, err = ledger.Open(g.path("run/vfio-hotplug"), "/proc")
	g.must(err)
	for function := range 4 {
		name := pci.Address{Bus: 2, Function: uint8(function)}.String()
		g.device(name, "vfio-pci")
		g.entry(name, "vfio-pci", nil)
	}
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}
