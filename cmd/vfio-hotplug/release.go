package main

import (
	"errors"
	"fmt"
	"io/fs"
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
stays there, over restarts and reloads, until it is plugged again or bound by
hand. A device that a program holds open is refused, and the program named.

A running daemon does the work; without one, release does it.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return errors.New("want addresses, or --all")
			}
			return nil
		},
		ValidArgsFunction: addresses(m),
		RunE: func(cmd *cobra.Command, args []string) error {
			targets, err := parseAddresses(args)
			if all {
				targets, err = taken(cmd, m)
			}
			if err != nil {
				return err
			}
			return release(cmd, m, targets)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "give back everything that was taken, and nothing else")
	return cmd
}

// taken lists what the ledger says we have changed, and is still there.
func taken(cmd *cobra.Command, m *machine) ([]pci.Address, error) {
	operator, err := m.operator()
	if err != nil {
		return nil, err
	}
	recorded, err := operator.Recorded()
	if errors.Is(err, fs.ErrPermission) {
		return nil, err
	}
	for _, fault := range daemon.Faults(err) {
		cmd.PrintErrln("vfio-hotplug: " + fault)
	}
	present, err := operator.FS.Devices()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(recorded, func(a pci.Address) bool { return !slices.Contains(present, a) }), nil
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
