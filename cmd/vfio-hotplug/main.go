// Command vfio-hotplug brings hot-plugged PCI devices under user-space drivers.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/sysfs"
)

// version is set by the build.
var version = "unknown"

// Exit codes.
const (
	exitDone    = 0
	exitFailed  = 1
	exitUsage   = 2
	exitRefused = 3 // for safety

	// exitConfig is the daemon's for a policy with faults: EX_CONFIG of
	// sysexits.h, so that the service manager can tell it from a failure that a
	// restart may mend.
	exitConfig = 78
)

func main() {
	// The expendable child has no use for anything below, and must be quick.
	if len(os.Args) > 1 && os.Args[1] == sysfs.WriteCommand {
		os.Exit(sysfs.RunWrite(os.Args[2:]))
	}
	if len(os.Args) > 1 && (os.Args[1] == udevCommand || os.Args[1] == nodeCommand) {
		os.Exit(runUdev(os.Args[1], os.Args[2:]))
	}
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	root := newRootCommand()
	root.SetArgs(args)
	return finish(root.ExecuteContext(ctx))
}

// finish tells an error that was not told yet, and gives the exit code.
func finish(err error) int {
	var told toldError
	if err != nil && !errors.As(err, &told) {
		fmt.Fprintln(os.Stderr, "vfio-hotplug: "+needsRoot(err).Error())
	}
	return exitCode(err)
}

func newRootCommand() *cobra.Command {
	m := &machine{root: "/"}
	root := &cobra.Command{
		Use:   "vfio-hotplug",
		Short: "Bring hot-plugged PCI devices under user-space drivers",
		Long: `vfio-hotplug brings PCI devices, above all NVMe drives, under vfio-pci or
another driver as they are plugged, by the rules in /etc/vfio-hotplug.
A drive in use is never taken, and whatever fails is put back.

The manual pages are vfio-hotplug(8) and vfio-hotplug-policy(5).`,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          knownCommand,

		SuggestionsMinimumDistance: 2,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
	}
	root.PersistentFlags().StringVar(&m.root, "root", "/", "directory below which sys, proc, dev, run, etc and usr are found")
	_ = root.PersistentFlags().MarkHidden("root")
	root.SetFlagErrorFunc(wrongFlag)
	root.AddCommand(
		newDaemonCommand(m),
		newDisarmCommand(m),
		newEarlyCommand(m),
		newStatusCommand(m),
		newExplainCommand(m),
		newCheckCommand(m),
		newBindCommand(m),
		newReleaseCommand(m),
	)
	addCompletion(root)
	for _, c := range append(root.Commands(), root) {
		c.Args = usage(c.Args)
	}
	root.SetHelpCommand(newHelpCommand())
	return root
}

// addCompletion adds cobra's command, but that a shell that it does not know is a
// fault.
func addCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	c, _, err := root.Find([]string{"completion"})
	if err != nil || c == root {
		panic("cobra has no command completion")
	}
	c.Args = aShell
	c.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
}

// newHelpCommand is cobra's, but that help for what is no command fails.
func newHelpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [command]",
		Short: "Help about any command",
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return usageError{fmt.Errorf("no command %q: see vfio-hotplug --help", strings.Join(args, " "))}
			}
			return about.Help()
		},
	}
}
