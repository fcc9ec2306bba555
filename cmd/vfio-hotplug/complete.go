package main

import (
	"slices"

	"github.com/spf13/cobra"

	"vfio-hotplug/internal/ledger"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
)

// present completes up to most addresses of devices that are there.
func (m *machine) present(most int) cobra.CompletionFunc {
	return complete(most, m.devices)
}

// taken completes the addresses of devices that are there and that the ledger
// speaks of. Its files are for root alone, but whose they are anybody may see:
// who completes is not root yet.
func (m *machine) taken(most int) cobra.CompletionFunc {
	return complete(most, func() ([]pci.Address, error) {
		present, err := m.devices()
		taken := ledger.Reader(m.path("run/vfio-hotplug"), m.path("proc")).Addresses()
		return slices.DeleteFunc(present, func(a pci.Address) bool { return !slices.Contains(taken, a) }), err
	})
}

func (m *machine) devices() ([]pci.Address, error) {
	root, err := sysfs.OpenRoot(m.path("sys"))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return sysfs.New(root, nil).Devices()
}

// complete offers what is not on the command line yet, and nothing once there
// are most addresses on it.
func complete(most int, list func() ([]pci.Address, error)) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		all, err := list()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []cobra.Completion
		for _, a := range all {
			if name := a.String(); !slices.Contains(args, name) {
				names = append(names, name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// words completes one of some words.
func words(all ...cobra.Completion) cobra.CompletionFunc {
	return cobra.FixedCompletions(all, cobra.ShellCompDirectiveNoFileComp)
}
