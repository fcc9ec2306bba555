package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// BenchmarkUdev starts the helper, for a drive that the policy names, in turn
// with a Go program that does nothing: udev runs it for every device that has
// no driver at boot. It reports how many times as long the helper takes, by the
// medians, since other work on the machine lengthens single runs.
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
	helper := []string{build("helper", "."), "udev", "0000:01:00.0", filepath.Join(dir, "root")}
	empty := []string{build("nothing", filepath.Join(dir, "empty/main.go"))}
	took := func(argv []string) time.Duration {
		start := time.Now()
		if text, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, text)
		}
		return time.Since(start)
	}
	var helped, nothing []time.Duration
	for b.Loop() {
		helped, nothing = append(helped, took(helper)), append(nothing, took(empty))
	}
	b.ReportMetric(float64(median(helped))/float64(median(nothing)), "×empty")
	b.ReportMetric(float64(median(helped).Microseconds()), "µs/helper")
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}
