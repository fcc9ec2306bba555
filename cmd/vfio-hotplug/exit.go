package main

import (
	"errors"
	"io/fs"
	"os"
	"strings"
)

// usageError is a command line that cannot be understood.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// refusedError is something not done, for safety.
type refusedError struct{ error }

func (e refusedError) Unwrap() error { return e.error }

// notStarted is a daemon that cannot start until the policy is mended.
type notStarted struct{ error }

func (e notStarted) Unwrap() error { return e.error }

// toldError is a failure that has been printed already.
type toldError struct{ error }

func (e toldError) Unwrap() error { return e.error }

// needsRoot adds to an error of one who may not do something what to do about
// it; another error stays as it is.
func needsRoot(err error) error {
	if os.Geteuid() == 0 || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	line, _, _ := strings.Cut(err.Error(), "\n") // of several that it may join
	return errors.New(line + ": be root: sudo " + strings.Join(os.Args, " "))
}

func exitCode(err error) int {
	var refused refusedError
	var usage usageError
	var config notStarted
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &refused):
		return exitRefused
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &config):
		return exitConfig
	}
	return exitFailed
}
