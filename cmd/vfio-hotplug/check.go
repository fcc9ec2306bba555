package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"vfio-hotplug/policy"
)

func newCheckCommand(m *machine) *cobra.Command {
	return &cobra.Command{
		Use:   "check [FILE...]",
		Short: "Say whether the policy is valid, and name every fault",
		Long: `check reads the policy as the daemon would, or the files named and nothing
else, and prints every fault with its file, line and column.`,
		RunE: func(cmd *cobra.Command, files []string) error {
			p, err := readPolicy(m, files)
			if err != nil {
				return policyFaults(cmd, err)
			}
			return tellPolicy(cmd, p)
		},
	}
}

func readPolicy(m *machine, files []string) (*policy.Policy, error) {
	if len(files) == 0 {
		return m.policy()
	}
	return policy.LoadFiles(files...)
}

// policyFaults prints each fault on a line of its own.
func policyFaults(cmd *cobra.Command, err error) error {
	var faults policy.Faults
	if !errors.As(err, &faults) {
		return err
	}
	for _, fault := range faults {
		cmd.PrintErrln(needsRoot(fault).Error())
	}
	return toldError{err}
}

func tellPolicy(cmd *cobra.Command, p *policy.Policy) error {
	files := p.Files()
	if len(files) == 0 {
		_, err := fmt.Fprintln(cmd.OutOrStdout(), "no policy file: nothing is taken")
		return err
	}
	for _, file := range files {
		if _, err := fmt.Fprintln(cmd.OutOrStdout(), file); err != nil {
			return err
		}
	}
	for _, warning := range p.Warnings() {
		cmd.PrintErrln("warning: " + warning)
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), "valid: "+p.Summary())
	return err
}
