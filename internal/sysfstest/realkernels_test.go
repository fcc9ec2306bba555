package sysfstest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"vfio-hotplug/internal/vmtest"
)

// TestContractOfRealKernels runs TestContractOfThisKernel in guests.
func TestContractOfRealKernels(t *testing.T) {
	vmtest.EachKernel(t, func(t *testing.T, k vmtest.Kernel) {
		program := compile(t)
		for name, machine := range map[string]vmtest.Config{
			"native":        {},
			"acpi":          {Hotplug: vmtest.ACPI},
			"without IOMMU": {NoIOMMU: true},
		} {
			machine.Kernel = k
			machine.Modules = []string{"nvme", "vfio_iommu_type1", "vfio-pci"}
			machine.Files = map[string]string{"/bin/sysfstest": program}
			t.Run(name, func(t *testing.T) { run(t, vmtest.Boot(t, machine)) })
		}
	})
}

// compile makes a program of this package's tests that runs in a guest.
func compile(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "sysfstest")
	cmd := exec.Command("go", "test", "-c", "-o", program, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go test -c: %v\n%s", err, out)
	}
	return program
}

// run runs the contract and does what it asks its host to do.
func run(t *testing.T, lab *vmtest.Lab) {
	t.Helper()
	const replies = "/run/sysfstest"
	p := lab.Start(vmtest.Background{
		Argv: []string{"/bin/sysfstest", "-test.v", "-test.run=^TestContractOfThisKernel$"},
		Env:  []string{"SYSFSTEST_REPLIES=" + replies},
	})
	ctx, cancel := context.WithTimeout(t.Context(), contractDeadline)
	defer cancel()
	for since := 0; ; {
		lines, err := p.Process.Lines(ctx, since, "^lab: ")
		since += len(lines)
		if errors.Is(err, vmtest.ErrEnded) {
			break
		}
		if err != nil {
			_, said := findings(p)
			t.Fatalf("%v; the contract said\n%s", err, said)
		}
		reply := "ok"
		if err := obey(lab, lines[len(lines)-1].Text); err != nil {
			reply = strings.ReplaceAll(err.Error(), "\n", " ")
		}
		lab.WriteFile(replies, reply+"\n")
	}
	judge(t, p)
}

// contractDeadline is for all of the contract. Emulated, it takes half a minute,
// and ten times that where what it waits for does not come.
const contractDeadline = 10 * time.Minute

// obey does what one line of the contract asks for.
func obey(lab *vmtest.Lab, line string) error {
	ctx, cancel := lab.Step()
	defer cancel()
	words := strings.Fields(line)
	if len(words) != 3 {
		return fmt.Errorf("%q is no request", line)
	}
	switch what, argument := words[1], words[2]; what {
	case "load":
		return lab.Guest.LoadModule(ctx, argument, "")
	case "unload":
		return lab.Guest.UnloadModule(ctx, argument)
	case "plug", "unplug":
		bay, err := strconv.Atoi(argument)
		if err != nil {
			return err
		}
		if what == "unplug" {
			return lab.Guest.Unplug(ctx, bay)
		}
		return lab.Guest.Plug(ctx, bay, vmtest.Device{})
	}
	return fmt.Errorf("%q is no request", line)
}

// judge says whether the contract holds.
func judge(t *testing.T, p *vmtest.LabProcess) {
	t.Helper()
	count, said := findings(p)
	if end := p.Wait(); end.Code != 0 || count == 0 {
		t.Errorf("the contract does not hold: exit code %d %s\n%s", end.Code, end.Signal, said)
		return
	}
	t.Logf("%d statements hold", count)
}

// findings counts the statements that hold, and repeats what was said of the
// others, each after its name, and the name of the last.
func findings(p *vmtest.LabProcess) (count int, said string) {
	held := regexp.MustCompile(`^ +--- PASS: `)
	name := regexp.MustCompile(`^=== (RUN|NAME) `)
	idle := regexp.MustCompile(`^(=== |--- PASS: |lab: |$)`)
	var others strings.Builder
	last := ""
	for _, line := range p.Output() {
		switch {
		case held.MatchString(line.Text):
			count++
		case name.MatchString(line.Text):
			last = line.Text + "\n"
		case !idle.MatchString(line.Text):
			fmt.Fprintln(&others, last+line.Text)
			last = ""
		}
	}
	return count, others.String() + last
}
