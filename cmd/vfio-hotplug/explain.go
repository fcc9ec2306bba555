package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"vfio-hotplug/internal/control"
	"vfio-hotplug/internal/daemon"
	"vfio-hotplug/internal/guard"
	"vfio-hotplug/internal/operate"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/policy"
)

func newExplainCommand(m *machine) *cobra.Command {
	var asJSON bool
	var files []string
	cmd := &cobra.Command{
		Use:   "explain ADDRESS",
		Short: "Say why a device is taken or not, rule by rule and check by check",
		Long: `explain goes through every rule and every check for one device, changes
nothing, and ends with what to do next. It needs root to look into a drive that
has a driver. A device also goes by the name that its driver has given it, as
nvme0n1 or eth0.

With --policy, the device is judged by the files named and nothing else, so that
a policy can be tried before it is installed. They may be pipes.`,
		Args:              oneDevice,
		ValidArgsFunction: m.present(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			all, err := m.targets(args)
			if err != nil {
				return err
			}
			p, err := policyToJudgeBy(cmd, m, files)
			if err != nil {
				return err
			}
			j, choice, err := judge(cmd, m, p, all[0])
			if err != nil {
				return err
			}
			if len(files) > 0 {
				j.Next = nextOfTrial(j, files)
			}
			off, err := switchedOff(m)
			if err != nil {
				return err
			}
			if off {
				cmd.PrintErrln("vfio-hotplug: " + offByKernel + ", so no daemon takes what is said to be taken; bind and release work by hand")
			}
			g := &control.Guard{Mode: string(choice.Mode), Reason: choice.Why, Remedy: choice.Remedy}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), reportOf(j, g, files))
			}
			return printJudgement(cmd.OutOrStdout(), j, g, files)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().StringArrayVar(&files, "policy", nil, "judge by this policy `file` instead of the installed ones; may be given again")
	_ = cmd.MarkFlagFilename("policy", "toml")
	return cmd
}

// policyToJudgeBy reads the installed policy or, to try them, the files named.
func policyToJudgeBy(cmd *cobra.Command, m *machine, files []string) (*policy.Policy, error) {
	p, err := readPolicy(m, files)
	switch {
	case err != nil && len(files) > 0:
		return nil, policyFaults(cmd, err)
	case err != nil:
		return nil, policyUnread(err)
	}
	return p, nil
}

// nextOfTrial is what to do next after a judgement by files that are not in
// force: what they take, a bind would not do as they say.
func nextOfTrial(j operate.Judgement, files []string) string {
	const again = "vfio-hotplug explain "
	switch {
	case strings.Contains(j.Next, again):
		return strings.Replace(j.Next, again, again+"--policy "+strings.Join(reusable(files), " --policy ")+" ", 1)
	case j.Outcome == operate.Direct || j.Outcome == operate.Taken:
		return "to have it so, put the policy into /etc/vfio-hotplug, then: systemctl reload vfio-hotplug"
	}
	return j.Next
}

// reusable names files for a command that is still to be typed: what has been read
// from a pipe has to come from somewhere else then.
func reusable(files []string) []string {
	again := slices.Clone(files)
	for i, file := range again {
		if info, err := os.Stat(file); err == nil && !info.Mode().IsRegular() {
			again[i] = "FILE"
		}
	}
	return again
}

// judge explains a device, and the guard that a daemon chooses for the policy.
func judge(cmd *cobra.Command, m *machine, p *policy.Policy, a pci.Address) (j operate.Judgement, choice guard.Choice, err error) {
	operator, err := m.observer()
	if err != nil {
		return j, choice, err
	}
	device, err := operator.FS.Open(a)
	if err != nil {
		return j, choice, openError(a, err)
	}
	defer device.Close()
	if machine, err := m.judge(operator); err != nil {
		choice = guard.Choice{Mode: "unknown", Why: "the machine cannot be judged: " + err.Error()}
	} else {
		// One that is named and cannot hold says so in its reason.
		choice, _ = daemon.ChooseGuard(machine, p)
	}
	j, err = operator.Explain(cmd.Context(), operate.Request{Device: device, Policy: func() *policy.Policy { return p }})
	return j, choice, err
}

func printJudgement(w io.Writer, j operate.Judgement, g *control.Guard, files []string) error {
	d := j.Device
	fmt.Fprintf(w, "%s  %04x:%04x  class %s", d.Address, uint16(d.Vendor), uint16(d.DeviceID), d.Class)
	if d.Slot != "" {
		fmt.Fprintf(w, "  slot %s", d.Slot)
	}
	for _, p := range d.PortSlots {
		fmt.Fprintf(w, "  behind %s in slot %s", p.Port, p.Slot)
	}
	fmt.Fprintf(w, "\n  driver %s", orDash(d.Driver))
	if d.IOMMUGroup != pci.NoGroup {
		fmt.Fprintf(w, ", IOMMU group %d", d.IOMMUGroup)
	}
	if j.Node != "" {
		fmt.Fprintf(w, ", node %s", j.Node)
	}
	fmt.Fprintln(w)
	if len(files) > 0 {
		fmt.Fprintf(w, "  judged by %s, which need not be in force\n", strings.Join(files, ", "))
	}
	printRules(w, j)
	printChecks(w, j.Checks)
	if err := printGuard(w, g); err != nil {
		return err
	}
	if e := j.Entry; e != nil {
		fmt.Fprintf(w, "taken by us: bound to %s, was on %s\n", e.Driver, orDash(e.Before.Driver))
	}
	fmt.Fprintf(w, "=> %s: %s\n", j.Outcome, j.Reason)
	if j.Next == "" {
		return nil
	}
	_, err := fmt.Fprintf(w, "next: %s\n", j.Next)
	return err
}

func printRules(w io.Writer, j operate.Judgement) {
	if len(j.Steps) == 0 {
		fmt.Fprintln(w, "rules: none")
		return
	}
	fmt.Fprintln(w, "rules:")
	for _, s := range j.Steps {
		fmt.Fprintf(w, "  %s %q: %s\n", mark(s), s.Rule.Name, s.Why)
	}
}

// mark shows a rule's part in the decision.
func mark(s policy.Step) string {
	switch {
	case s.Unread:
		return "??"
	case s.Decides:
		return "=>"
	case s.Matches:
		return " +"
	}
	return " -"
}

func printChecks(w io.Writer, checks []operate.Check) {
	if len(checks) == 0 {
		return
	}
	fmt.Fprintln(w, "checks:")
	for _, c := range checks {
		verdict := "ok  "
		switch {
		case c.Veto:
			verdict = "VETO"
		case c.Unread:
			verdict = "??  "
		}
		fmt.Fprintf(w, "  %s %s: %s\n", verdict, c.Name, c.Text)
	}
}

// report is a judgement in JSON.
type report struct {
	Address pci.Address     `json:"address"`
	Driver  string          `json:"driver,omitempty"`
	Policy  []string        `json:"policy,omitempty"` // the files that were named
	Rules   []ruleReport    `json:"rules"`
	Verdict string          `json:"verdict"`
	Rule    string          `json:"rule,omitempty"`
	Wanted  string          `json:"wanted_driver,omitempty"`
	Checks  []operate.Check `json:"checks"`
	Ledger  json.RawMessage `json:"ledger,omitempty"`
	Outcome operate.Outcome `json:"outcome"`
	Reason  string          `json:"reason"`
	Next    string          `json:"next,omitempty"`
	Guard   *control.Guard  `json:"guard"`
}

type ruleReport struct {
	Name    string `json:"name"`
	Matches bool   `json:"matches"`
	Decides bool   `json:"decides"`
	Unread  bool   `json:"unread,omitempty"` // it may match: not all that it asks for could be read
	Why     string `json:"why"`
}

func reportOf(j operate.Judgement, g *control.Guard, files []string) report {
	r := report{
		Address: j.Device.Address, Driver: j.Device.Driver, Policy: files, Rules: []ruleReport{}, Verdict: j.Decision.Verdict.String(),
		Wanted: j.Driver, Checks: append([]operate.Check{}, j.Checks...), Outcome: j.Outcome, Reason: j.Reason, Next: j.Next, Guard: g,
	}
	if j.Decision.Rule != nil {
		r.Rule = j.Decision.Rule.Name
	}
	for _, s := range j.Steps {
		r.Rules = append(r.Rules, ruleReport{Name: s.Rule.Name, Matches: s.Matches, Decides: s.Decides, Unread: s.Unread, Why: s.Why})
	}
	if j.Entry != nil {
		r.Ledger, _ = json.Marshal(j.Entry)
	}
	return r
}
