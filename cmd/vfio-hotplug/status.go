package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"vfio-hotplug/internal/control"
	"vfio-hotplug/internal/daemon"
	"vfio-hotplug/internal/operate"
	"vfio-hotplug/policy"
)

func newStatusCommand(m *machine) *cobra.Command {
	var asJSON, all bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the devices that the policy names or that were changed",
		Long: `status shows each device that a rule names or that was taken: where it is,
what it is, its driver, group and node, the rule and what became of it.

A running daemon answers, root alone in full: who holds a drive is not for
everybody. Without one, status looks itself, and root sees more.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			reply, asked, unread, err := status(cmd, m, all)
			if err != nil {
				return err
			}
			for _, fault := range reply.Faults {
				cmd.PrintErrln("vfio-hotplug: " + fault)
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), statusReport{Daemon: asked, StatusReply: reply})
			} else {
				err = printStatus(cmd.OutOrStdout(), m, reply)
			}
			return cmp.Or(err, unread)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&all, "all", false, "show every PCI device")
	return cmd
}

// statusReport is a status in JSON.
type statusReport struct {
	Daemon bool `json:"daemon"` // it has answered
	control.StatusReply
}

// status asks the daemon or, where none runs, looks itself. unread is why that
// was without the policy's rules.
func status(cmd *cobra.Command, m *machine, all bool) (reply control.StatusReply, asked bool, unread, err error) {
	asked, err = call(cmd.Context(), m, control.MethodStatus, control.StatusRequest{All: all}, &reply)
	if asked {
		return reply, asked, nil, err
	}
	p, err := m.policy()
	faulty := err != nil && !errors.Is(err, fs.ErrPermission)
	if err != nil {
		unread = policyUnread(err)
		p, err = policy.Parse("", nil)
	}
	if err != nil {
		return reply, asked, nil, err
	}
	operator, err := m.observer()
	if err != nil {
		return reply, asked, nil, err
	}
	lines, err := operator.Survey(p)
	if errors.Is(err, fs.ErrPermission) {
		return reply, asked, nil, fmt.Errorf("no daemon is running to ask: %w", err)
	}
	if err != nil && len(lines) == 0 {
		return reply, asked, nil, err
	}
	reply = control.StatusReply{Devices: []control.Device{}, Faults: daemon.Faults(err)}
	for _, line := range lines {
		if all || line.Named() {
			reply.Devices = append(reply.Devices, daemon.Describe(line, operate.Result{}))
		}
	}
	off, err := switchedOff(m)
	if err != nil {
		return reply, asked, nil, err
	}
	cmd.PrintErrln("vfio-hotplug: no daemon is running" + startIt(off, faulty))
	return reply, asked, unread, nil
}

// startIt says what is told without a daemon, and what to do to have one.
func startIt(off, faulty bool) string {
	why, next := "", "systemctl start vfio-hotplug"
	switch {
	case off:
		why, next = ": "+offByKernel, "boot without that word; until then bind and release work by hand"
	case faulty: // a daemon would not start
		next = "mend the policy, see vfio-hotplug check, then systemctl start vfio-hotplug"
	}
	return why + "; this is what sysfs and the record of what was taken say; next: " + next
}

func printStatus(w io.Writer, m *machine, reply control.StatusReply) error {
	if err := printTable(w, readNames(m, reply.Devices), reply.Devices); err != nil {
		return err
	}
	if err := printReasons(w, reply.Devices); err != nil || reply.Guard == nil {
		return err
	}
	fmt.Fprintln(w)
	return printGuard(w, reply.Guard)
}

// policyUnread says in one line why there is no policy, and what to do.
func policyUnread(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("read the policy: %w", err)
	}
	return errors.New("the policy has faults: see vfio-hotplug check")
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
	if err := t.Flush(); err != nil {
		return err
	}
	for _, d := range devices {
		if d.Barred != "" {
			fmt.Fprintf(w, "%s: no program can open it: IOMMU group %s is not viable, because of %s\n", d.Address, groupOf(d), d.Barred)
		}
	}
	return nil
}

// printReasons says of each device that was refused, has failed or is stuck why,
// and what to do about it.
func printReasons(w io.Writer, devices []control.Device) error {
	var b strings.Builder
	for _, d := range devices {
		switch operate.Outcome(d.Outcome) {
		case operate.Refused, operate.Failed, operate.Stuck:
			fmt.Fprintf(&b, "\n%s %s: %s\n", d.Address, d.Outcome, d.Reason)
			if d.Remedy != "" {
				fmt.Fprintf(&b, "next: %s\n", d.Remedy)
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// printGuard says what keeps other drivers from a new drive.
func printGuard(w io.Writer, g *control.Guard) error {
	state := ""
	if g.Pending {
		state = ", not in force yet"
	}
	text := fmt.Sprintf("guard %s%s: %s\n", g.Mode, state, g.Reason)
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
