package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// usage makes a fault of the arguments a usageError.
func usage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if check == nil {
			return nil
		}
		if err := check(cmd, args); err != nil {
			return usageError{errors.New(err.Error() + seeHelp(err, cmd))}
		}
		return nil
	}
}

// wrongFlag says in plain words what is wrong with a flag, as cobra and pflag do
// not always.
func wrongFlag(cmd *cobra.Command, err error) error {
	var value *pflag.InvalidValueError
	var missing *pflag.ValueRequiredError
	var unknown *pflag.NotExistError
	switch {
	case errors.As(err, &value): // of one that is on or off: the others take any text
		err = fmt.Errorf("--%s takes no value, and got %q", value.GetFlag().Name, value.GetValue())
	case errors.As(err, &missing):
		err = fmt.Errorf("--%s wants a value", missing.GetFlag().Name)
	case errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() != "":
		err = fmt.Errorf("unknown flag: -%s", unknown.GetSpecifiedShortnames())
	}
	return usageError{fmt.Errorf("%w%s", err, seeHelp(err, cmd))}
}

// seeHelp ends what is wrong with a command line.
func seeHelp(err error, cmd *cobra.Command) string {
	if strings.HasSuffix(err.Error(), "?") {
		return " See " + cmd.CommandPath() + " --help"
	}
	return ": see " + cmd.CommandPath() + " --help"
}

// The checks of a command's arguments say what is wanted.

func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s takes no argument, and got %q", cmd.Name(), args[0])
	}
	return nil
}

func oneDevice(_ *cobra.Command, args []string) error {
	switch len(args) {
	case 0:
		return errors.New("want the address of a device")
	case 1:
		return nil
	}
	return fmt.Errorf("want the address of one device, and got %d arguments", len(args))
}

func someDevices(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return errors.New("want the address of a device, or of several")
	}
	return nil
}

// aShell is for the command completion, whose own commands are the shells.
func aShell(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fmt.Errorf("no completion for %q: want bash, zsh, fish or powershell", args[0])
}

// knownCommand is for the root command: what it is given as an argument is no
// command's name.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	text := fmt.Sprintf("unknown command %q", args[0])
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		text += "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return errors.New(text)
}
