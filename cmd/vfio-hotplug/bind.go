package main

import (
	"math"

	"github.com/spf13/cobra"

	"vfio-hotplug/internal/control"
	"vfio-hotplug/internal/operate"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/policy"
)

func newBindCommand(m *machine) *cobra.Command {
	var driver, takeover string
	cmd := &cobra.Command{
		Use:   "bind ADDRESS...",
		Short: "Bring devices under their driver by hand, with all checks",
		Long: `bind does by hand what the daemon does by itself, with the same checks: a
drive in use is never taken. A device that no rule names goes to vfio-pci; a
rule that says leave stands. bind also ends a release.
A device also goes by the name that its driver has given it, as nvme0n1 or eth0.

A running daemon does the work; without one, bind does it.`,
		Args:              someDevices,
		ValidArgsFunction: m.present(math.MaxInt),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("driver") {
				if err := policy.CheckDriver(driver); err != nil {
					return usageError{err}
				}
			}
			wish := operate.Hand{Driver: driver}
			if cmd.Flags().Changed("takeover") {
				t, err := policy.ParseTakeover(takeover)
				if err != nil {
					return usageError{err}
				}
				wish.Takeover = &t
			}
			return bind(cmd, m, args, wish)
		},
	}
	cmd.Flags().StringVar(&driver, "driver", "", "bind to this driver instead of the rule's")
	cmd.Flags().StringVar(&takeover, "takeover", "", "how a drive that has a driver may be taken: never, blank or idle")
	_ = cmd.RegisterFlagCompletionFunc("driver", words(policy.VFIO, policy.UIO, policy.Auto))
	_ = cmd.RegisterFlagCompletionFunc("takeover", words(policy.Never.String(), policy.Blank.String(), policy.Idle.String()))
	return cmd
}

func bind(cmd *cobra.Command, m *machine, args []string, wish operate.Hand) error {
	all, err := m.targets(args)
	if err != nil {
		return err
	}
	return each(cmd, all, func(a pci.Address) (control.Device, error) {
		request := control.BindRequest{Address: a.String(), Driver: wish.Driver}
		if wish.Takeover != nil {
			request.Takeover = wish.Takeover.String()
		}
		var reply control.DeviceReply
		asked, err := call(cmd.Context(), m, control.MethodBind, request, &reply)
		if !asked {
			p, err := m.policy()
			if err != nil {
				return control.Device{}, policyUnread(err)
			}
			return act(cmd.Context(), m, a, operate.Request{Hand: wish, Policy: func() *policy.Policy { return p }}, (*operate.Operator).Take)
		}
		return reply.Device, err
	})
}
