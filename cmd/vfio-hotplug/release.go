package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"

	"github.com/spf13/cobra"

	"vfio-hotplug/internal/control"
	"vfio-hotplug/internal/daemon"
	"vfio-hotplug/internal/operate"
	"vfio-hotplug/internal/pci"
)

func newReleaseCommand(m *machine) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "release ADDRESS... | --all",
		Short: "Give devices back to the drivers they came from",
		Long: `release gives a device back to exactly what it had before it was taken. It
stays there, over restarts and reloads of the daemon, until it is plugged again,
it is bound by hand, or the machine boots; for good, write a rule that leaves it.
A device that a program holds open is refused, and the program named.

A running daemon does the work; without one, release does it.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return errors.New("want addresses, or --all")
			}
			return nil
		},
		ValidArgsFunction: m.taken(math.MaxInt),
		RunE: func(cmd *cobra.Command, args []string) error {
			if all {
				return releaseAll(cmd, m)
			}
			targets, err := m.targets(args)
			if err != nil {
				return err
			}
			return release(cmd, m, targets)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "give back everything that was taken, and nothing else")
	return cmd
}

// releaseAll gives back all that the ledger speaks of. What it cannot say any more
// is told, and is a failure: nobody is to think that there is nothing left.
func releaseAll(cmd *cobra.Command, m *machine) error {
	targets, faults, err := taken(m)
	if err != nil {
		return err
	}
	for _, fault := range faults {
		cmd.PrintErrln("vfio-hotplug: " + fault)
	}
	if len(faults) == 0 {
		return release(cmd, m, targets)
	}
	unread := toldError{errors.New("not all of the record can be read")}
	if len(targets) == 0 {
		return unread
	}
	return errors.Join(release(cmd, m, targets), unread)
}

// taken lists what the ledger says we have changed, and is still there; faults
// are what it says no more.
func taken(m *machine) (there []pci.Address, faults []string, err error) {
	operator, err := m.operator()
	if err != nil {
		return nil, nil, err
	}
	aside, err := operator.Ledger.Aside()
	if err != nil {
		return nil, nil, err
	}
	recorded, err := operator.Recorded()
	if errors.Is(err, fs.ErrPermission) {
		return nil, nil, err
	}
	faults = daemon.Faults(err)
	present, err := operator.FS.Devices()
	if err != nil {
		return nil, nil, err
	}
	for _, old := range aside {
		if slices.Contains(present, old.Address) {
			faults = append(faults, fmt.Sprintf("%s: what was done to it could not be read, and was kept as %s: see what driver it has, then remove that file", old.Address, old.File))
		}
	}
	return slices.DeleteFunc(recorded, func(a pci.Address) bool { return !slices.Contains(present, a) }), faults, nil
}

func release(cmd *cobra.Command, m *machine, targets []pci.Address) error {
	if len(targets) == 0 {
		_, err := fmt.Fprintln(cmd.OutOrStdout(), "nothing to give back")
		return err
	}
	return each(cmd, targets, func(a pci.Address) (control.Device, error) {
		var reply control.DeviceReply
		asked, err := call(cmd.Context(), m, control.MethodRelease, control.ReleaseRequest{Address: a.String()}, &reply)
		if !asked {
			// What was taken goes back whatever the policy says, or has become.
			return act(cmd.Context(), m, a, operate.Request{}, (*operate.Operator).Release)
		}
		return reply.Device, err
	})
}
