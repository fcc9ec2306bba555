// Demo plugs drives into a running guest while you watch: each comes up under
// vfio-pci, but for the one that no rule names.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/vmtest"
	"vfio-hotplug/internal/vmtest/cache"
	"vfio-hotplug/internal/vmtest/kernel"
)

const (
	program = "/usr/sbin/vfio-hotplug"
	// limit is for the whole demonstration; it takes half a minute emulated.
	limit = 5 * time.Minute
)

// The bays of the demonstration. The policy names the first three.
const (
	firstBay = 0
	lastBay  = 2
	otherBay = 5
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := run(ctx, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) error {
	k, err := newest()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "vfio-hotplug-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	show := &show{out: out}
	if show.guest, err = boot(ctx, out, k, dir); err != nil {
		return err
	}
	defer show.guest.Close()
	return show.run(ctx)
}

// newest gives the kernel that the user brings, else the newest of the matrix.
func newest() (vmtest.Kernel, error) {
	dir, err := cache.Dir()
	if err != nil {
		return vmtest.Kernel{}, err
	}
	kernels, err := kernel.Choose(dir, os.Getenv, kernel.Newest)
	if err != nil {
		return vmtest.Kernel{}, err
	}
	return kernels[0], nil
}

func boot(ctx context.Context, out io.Writer, k vmtest.Kernel, dir string) (*vmtest.Guest, error) {
	binary, err := vmtest.Build("vfio-hotplug/cmd/vfio-hotplug")
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(out, "Starting a guest with Linux %s, an IOMMU and %d empty NVMe bays ...\n", k, vmtest.DefaultBays)
	guest, err := vmtest.Start(ctx, vmtest.Config{
		Kernel:  k,
		Modules: []string{"pci-stub", "vfio-pci", "vfio_iommu_type1", "nvme"},
		Files:   map[string]string{program: binary},
	}, dir)
	if err != nil {
		return nil, err
	}
	took, _ := guest.StartTime()
	fmt.Fprintf(out, "It is up after %.1f s; nvme is loaded.", took.Seconds())
	if !vmtest.KVM(k) {
		fmt.Fprint(out, " Its processor is emulated, so all takes many times as long as on a real one.")
	}
	fmt.Fprintln(out)
	return guest, nil
}

// show is the demonstration itself.
type show struct {
	out    io.Writer
	guest  *vmtest.Guest
	daemon *vmtest.Process
	shown  int // lines of the daemon's log
}

func (s *show) run(ctx context.Context) error {
	if err := s.start(ctx); err != nil {
		return err
	}
	var failed []error
	for bay := firstBay; bay <= lastBay; bay++ {
		failed = append(failed, s.plug(ctx, bay, "vfio-pci", "(bound|took) %s "))
	}
	failed = append(failed, s.plug(ctx, otherBay, "nvme", "left %s "))
	if err := s.command(ctx, "vfio-hotplug status", program, "status"); err != nil {
		failed = append(failed, err)
	}
	if err := errors.Join(failed...); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "\nAs it should be: %d drives on vfio-pci, and the one that no rule names with nvme.\n", lastBay-firstBay+1)
	return nil
}

func (s *show) start(ctx context.Context) error {
	ports := make([]string, 0, lastBay-firstBay+1)
	for bay := firstBay; bay <= lastBay; bay++ {
		ports = append(ports, fmt.Sprintf("%q", vmtest.PortAddress(bay)))
	}
	policy := fmt.Sprintf("[[rule]]\nname  = \"front bays\"\nmatch = { class = \"nvme\", behind = [%s] }\n", strings.Join(ports, ", "))
	if err := s.guest.CreateFile(ctx, "/etc/vfio-hotplug/policy.toml", policy, 0o644); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "\nThe policy, /etc/vfio-hotplug/policy.toml:\n\n%s\nvfio-hotplug daemon:\n", indent(policy))
	var err error
	s.daemon, err = s.guest.Start(ctx, vmtest.Background{Argv: []string{program, "daemon"}, Notify: true})
	if err != nil {
		return err
	}
	return s.log(ctx, "INFO +guard ")
}

// plug plugs a drive and waits until the daemon has told what became of it; %s
// in told stands for its address.
func (s *show) plug(ctx context.Context, bay int, want, told string) error {
	fmt.Fprintf(s.out, "\nPlugging a drive into bay %d ...\n", bay)
	if err := s.guest.Plug(ctx, bay, vmtest.Device{}); err != nil {
		return err
	}
	address, err := s.guest.Address(ctx, bay)
	if err != nil {
		return err
	}
	if err := s.log(ctx, fmt.Sprintf(told, regexp.QuoteMeta(address))); err != nil {
		return err
	}
	return s.guest.WaitFor(ctx, address+" to be on "+want, func(ctx context.Context) (bool, error) {
		driver, err := s.guest.Driver(ctx, bay)
		return driver == want, err
	})
}

// log shows the daemon's log up to a line that matches.
func (s *show) log(ctx context.Context, match string) error {
	lines, err := s.daemon.Lines(ctx, s.shown, match)
	s.shown += len(lines)
	for _, line := range lines {
		if line.Stream == "stderr" {
			fmt.Fprintln(s.out, "    "+line.Text)
		}
	}
	return err
}

// command runs a command in the guest and shows what it prints.
func (s *show) command(ctx context.Context, title string, argv ...string) error {
	result, err := s.guest.Run(ctx, vmtest.Command{Argv: argv})
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "\n%s:\n%s%s", title, indent(string(result.Stdout)), indent(string(result.Stderr)))
	if result.Code != 0 {
		return fmt.Errorf("%s: exit code %d", title, result.Code)
	}
	return nil
}

func indent(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("    " + line)
	}
	return b.String()
}
