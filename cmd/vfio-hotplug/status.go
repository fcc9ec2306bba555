package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"vfio-hotplug/internal/control"
	"vfio-hotplug/internal/daemon"
	"vfio-hotplug/internal/operate"
)

func newStatusCommand(m *machine) *cobra.Command {
	var asJSON, all bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the devices that the policy names or that were changed",
		Long: `status shows each device that a rule names or that was taken: where it is,
what it is, its driver, group and node, the rule and what became of it.

A running daemon answers; without one, status looks itself, which needs root.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			reply, err := status(cmd, m, all)
			if err != nil {
				return err
			}
			for _, fault := range reply.Faults {
				cmd.PrintErrln("vfio-hotplug: " + fault)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), reply)
			}
			if err := printTable(cmd.OutOrStdout(), readNames(m, reply.Devices), reply.Devices); err != nil {
				return err
			}
			if reply.Guard == nil {
				return nil
			}
			fmt.Fprintln(cmd.OutOrStdout())
			return printGuard(cmd.OutOrStdout(), reply.Guard)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&all, "all", false, "show every PCI device")
	return cmd
}

func status(cmd *cobra.Command, m *machine, all bool) (control.StatusReply, error) {
	var reply control.StatusReply
	asked, err := call(cmd.Context(), m, control.MethodStatus, control.StatusRequest{All: all}, &reply)
	if asked {
		return reply, err
	}
	p, err := m.policy()
	if err != nil {
		return reply, errors.New("the policy has faults: see vfio-hotplug check")
	}
	operator, err := m.observer()
	if err != nil {
		return reply, err
	}
	lines, err := operator.Survey(p)
	if errors.Is(err, fs.ErrPermission) {
		return reply, fmt.Errorf("no daemon is running to ask: %w", err)
	}
	if err != nil && len(lines) == 0 {
		return reply, err
	}
	reply = control.StatusReply{Devices: []control.Device{}, Faults: daemon.Faults(err)}
	for _, line := range lines {
		if all || line.Named() {
			reply.Devices = append(reply.Devices, daemon.Describe(line, operate.Result{}))
		}
	}
	cmd.PrintErrln("vfio-hotplug: no daemon is running; this is what sysfs and the ledger say")
	return reply, nil
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func printTable(w io.Writer, names names, devices []control.Device) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ADDRESS\tSLOT\tDEVICE\tDRIVER\tGROUP\tNODE\tRULE\tOUTCOME\tTIME")
	for _, d := range devices {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", d.Address, orDash(d.Slot), names.of(d), orDash(d.Driver),
			groupOf(d), orDash(d.Node), orDash(d.Rule), orDash(d.Outcome), latencyOf(d))
	}
	return t.Flush()
}

// printGuard says what keeps other drivers from a new drive.
func printGuard(w io.Writer, g *control.Guard) error {
	text := fmt.Sprintf("guard %s: %s\n", g.Mode, g.Reason)
	if g.Remedy != "" {
		text += "for a stronger one: " + g.Remedy + "\n"
	}
	_, err := io.WriteString(w, text)
	return err
}

func groupOf(d control.Device) string {
	if d.IOMMUGroup == nil {
		return "-"
	}
	return strconv.Itoa(*d.IOMMUGroup)
}

func latencyOf(d control.Device) string {
	if d.LatencyUsec == 0 {
		return "-"
	}
	return (time.Duration(d.LatencyUsec) * time.Microsecond).Round(10 * time.Microsecond).String()
}
