// Vmsetup makes a machine ready to run guests: it installs QEMU and a few
// small programs where they are missing, and fetches the kernels into the
// user's cache: those that are named, such as 6.12 or newest, or all. It is
// quick when all is there.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/vmtest/cache"
	"vfio-hotplug/internal/vmtest/kernel"
)

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	err := run(ctx, os.Stdout, flag.Args())
	if ctx.Err() != nil {
		err = errors.New("interrupted; what is complete is kept")
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "vmsetup: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, kernels []string) error {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return fmt.Errorf("guests are x86-64 Linux machines; this is %s/%s", runtime.GOOS, runtime.GOARCH)
	}
	if err := installPrograms(ctx, out); err != nil {
		return err
	}
	dir, err := cache.Dir()
	if err != nil {
		return err
	}
	if err := fetchBusybox(ctx, dir, out); err != nil {
		return err
	}
	return fetchKernels(ctx, dir, kernels, out)
}

func fetchBusybox(ctx context.Context, dir string, out io.Writer) error {
	path, err := kernel.FetchBusybox(ctx, dir, out)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "busybox: %s\n", path)
	return nil
}

func fetchKernels(ctx context.Context, dir string, names []string, out io.Writer) error {
	own, ok, err := kernel.Own(os.Getenv)
	if err != nil {
		return err
	}
	if ok {
		fmt.Fprintf(out, "kernel %s: %s (VMLINUZ)\n", own, own.Image)
		return nil
	}
	id, _, err := kernel.Distribution()
	if err != nil {
		return err
	}
	specs, err := named(kernel.Matrix(id), names)
	if err != nil {
		return err
	}
	var missing []error
	for _, spec := range specs {
		k, err := kernel.Fetch(ctx, dir, spec, out)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			missing = append(missing, err)
			continue
		}
		fmt.Fprintf(out, "kernel %s: %s\n", k, k.Image)
	}
	return errors.Join(missing...)
}

// named gives the specs that go by names, or all.
func named(matrix []kernel.Spec, names []string) ([]kernel.Spec, error) {
	if len(names) == 0 {
		return matrix, nil
	}
	var specs []kernel.Spec
	var known []string
	for _, spec := range matrix {
		known = append(known, spec.Name)
		if slices.Contains(names, spec.Name) {
			specs = append(specs, spec)
		}
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("there is no kernel %q to fetch: there are %s", name, strings.Join(known, ", "))
		}
	}
	return specs, nil
}
