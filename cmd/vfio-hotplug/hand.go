package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/control"
	"vfio-hotplug/internal/daemon"
	"vfio-hotplug/internal/operate"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
)

// call asks the running daemon. asked is false when there is none, and the
// command has to do it itself.
func call(ctx context.Context, m *machine, method string, in, out any) (asked bool, err error) {
	client, err := control.Dial(m.socket())
	if errors.Is(err, control.ErrNoDaemon) {
		return false, nil
	}
	if err != nil {
		return true, fmt.Errorf("ask the daemon: %w", err)
	}
	defer client.Close()
	if err := client.Call(ctx, method, in, out); err != nil {
		return true, fmt.Errorf("ask the daemon: %w", err)
	}
	return true, nil
}

// each does something for every device in turn, and tells at once what became
// of it.
func each(cmd *cobra.Command, targets []pci.Address, do func(pci.Address) (control.Device, error)) error {
	outlastReaders()
	var faults []error
	for _, a := range targets {
		device, err := do(a)
		if err == nil {
			err = conclude(cmd.OutOrStdout(), device)
		}
		if err != nil {
			cmd.PrintErrln("vfio-hotplug: " + needsRoot(err).Error())
			faults = append(faults, toldError{err})
		}
	}
	return errors.Join(faults...)
}

// act does an operation in this process, as the daemon would.
func act(ctx context.Context, m *machine, a pci.Address, r operate.Request,
	run func(*operate.Operator, context.Context, operate.Request) operate.Result) (control.Device, error) {
	// Else the first to say so would be a write, in the middle of things.
	if err := unix.Access(m.path("sys/bus/pci/drivers_probe"), unix.W_OK); errors.Is(err, fs.ErrPermission) {
		return control.Device{}, fmt.Errorf("%s: %w", a, err)
	}
	operator, err := m.operator()
	if err != nil {
		return control.Device{}, err
	}
	if r.Device, err = operator.FS.Open(a); err != nil {
		return control.Device{}, openError(a, err)
	}
	defer r.Device.Close()
	g := m.guard(operator)
	state, err := g.State()
	if err != nil {
		return control.Device{}, err
	}
	r.Guard = daemon.Recall(state, time.Time{})
	r.Arrival = operate.ByHand
	return daemon.DescribeResult(run(operator, ctx, r)), nil
}

func openError(a pci.Address, err error) error {
	if sysfs.Gone(err) {
		return fmt.Errorf("%s: no PCI device is there: see lspci -D", a)
	}
	return fmt.Errorf("%s: %w", a, err)
}

// conclude prints what became of a device, and gives the error that fits.
func conclude(w io.Writer, d control.Device) error {
	switch operate.Outcome(d.Outcome) {
	case operate.Direct, operate.Taken, operate.Already, operate.Released:
		_, err := fmt.Fprintln(w, sentence(d))
		return err
	case operate.Refused, operate.Left, operate.Stuck:
		return refusedError{errors.New(complaint(d))}
	}
	return errors.New(complaint(d))
}

func sentence(d control.Device) string {
	s := fmt.Sprintf("%s %s: driver %s", d.Address, d.Outcome, orDash(d.Driver))
	if d.From != "" {
		s += ", from " + d.From
	}
	if d.Node != "" {
		s += ", node " + d.Node
	}
	if len(d.Along) > 0 {
		s += ", and with it " + strings.Join(d.Along, ", ")
	}
	if d.Outcome == string(operate.Released) {
		s += untilWhen
	}
	return s
}

// untilWhen says how long a release holds: what marks it is in /run.
const untilWhen = "; it stays there until it is plugged again, it is bound by hand, or the machine boots; for good: a rule that says leave"

func complaint(d control.Device) string {
	words := []string{d.Address}
	if d.Outcome != "" {
		words = append(words, d.Outcome)
	}
	words = append(words, strings.ReplaceAll(d.Reason, "\n", "; "))
	if d.Remedy != "" {
		words = append(words, "next: "+d.Remedy)
	}
	return strings.Join(words, ": ")
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
