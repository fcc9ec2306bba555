package vmtest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/vmtest/cache"
)

// hardware are QEMU's arguments for virtualisation by the processor. A machine
// that is a guest itself may offer its processor's capabilities
// (IA32_ARCH_CAPABILITIES) and refuse to set them; no guest here needs them.
var hardware = []string{"-machine", "q35,accel=kvm,kernel-irqchip=split", "-cpu", "max,arch-capabilities=off"}

// bootsWithin is how long a kernel may take under KVM from start to end: a second
// or two on a machine that is not overloaded.
const bootsWithin = 20 * time.Second

// KVM tells whether guests have hardware virtualisation; else QEMU emulates their
// processors. That there is a /dev/kvm says little: on a machine that is a guest
// itself it may run firmware and no kernel. So a kernel is booted once, and the
// answer is kept in the cache until this machine boots again.
func KVM(k Kernel) bool {
	if unix.Access("/dev/kvm", unix.R_OK|unix.W_OK) != nil {
		return false
	}
	kvm.Lock()
	defer kvm.Unlock()
	if works, asked := kvm.answers[k.Image]; asked {
		return works
	}
	works, err := keptAnswer("kvm", k.Image, func() (bool, error) { return bootsUnderKVM(k) })
	if err != nil {
		fmt.Fprintf(os.Stderr, "guests are emulated: KVM cannot be tried: %v\n", err)
	}
	kvm.answers[k.Image] = works
	return works
}

// kvm are the answers in this process: one guest is not asked about twice.
var kvm = struct {
	sync.Mutex
	answers map[string]bool // by the kernel's image
}{answers: map[string]bool{}}

// keptAnswer gives the answer to a question about something, which is asked once
// in the life of a machine. An error is no answer.
func keptAnswer(question, about string, ask func() (bool, error)) (bool, error) {
	dir, err := cache.Dir()
	if err != nil {
		return false, err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return false, err
	}
	dir = filepath.Join(dir, "pieces", question+"-"+cache.Key(string(boot), about))
	err = cache.Fill(dir, func(made string) error {
		yes, err := ask()
		if err != nil {
			return err
		}
		if !yes {
			fmt.Fprintf(os.Stderr, "guests are emulated: there is a /dev/kvm, but %s does not boot under it; to ask again: rm -r %s\n", about, dir)
			return nil
		}
		return os.WriteFile(filepath.Join(made, "yes"), nil, 0o600)
	})
	if err != nil {
		return false, err
	}
	_, err = os.Stat(filepath.Join(dir, "yes"))
	return err == nil, nil
}

// bootsUnderKVM boots a kernel until it panics, as it does without a root file
// system; that ends QEMU. A QEMU that fails by itself is an error.
func bootsUnderKVM(k Kernel) (bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), bootsWithin)
	defer cancel()
	try := exec.CommandContext(ctx, qemuProgram, append(slices.Clone(hardware), "-smp", "2", "-m", "512", "-nodefaults", "-no-user-config", "-no-reboot",
		"-display", "none", "-serial", "stdio", "-kernel", k.Image, "-append", "console=ttyS0 panic=-1")...)
	var said bytes.Buffer
	try.Stdout, try.Stderr = &said, &said
	if err := try.Start(); err != nil {
		return false, err
	}
	if err := try.Wait(); err != nil && ctx.Err() == nil {
		return false, fmt.Errorf("%s: %w: %s", qemuProgram, err, strings.TrimSpace(said.String()))
	}
	return strings.Contains(said.String(), "Kernel panic"), nil
}
