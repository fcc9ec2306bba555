// Vmsetup makes a machine ready to run guests: it installs QEMU and a few
// small programs where they are missing, and fetches the kernels into the
// user's cache: those that are named, such as 6.12 or newest, or all. With
// -systems it makes the systems of package guests besides. It is quick when all
// is there.
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
	"vfio-hotplug/internal/vmtest/system"
)

func main() {
	systems := flag.Bool("systems", false, "make the systems of package guests, too")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	err := run(ctx, os.Stdout, flag.Args(), *systems)
	if ctx.Err() != nil {
		err = errors.New("interrupted; what is complete is kept")
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "vmsetup: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, kernels []string, systems bool) error {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return fmt.Errorf("guests are x86-64 Linux machines; this is %s/%s", runtime.GOOS, runtime.GOARCH)
	}
	programs := needed
	if systems {
		programs = slices.Concat(needed, neededForSystems())
	}
	if err := installPrograms(ctx, programs, out); err != nil {
		return err
	}
	dir, err := cache.Dir()
	if err != nil {
		return err
	}
	if err := fetchBusybox(ctx, dir, out); err != nil {
		return err
	}
	if err := fetchKernels(ctx, dir, kernels, out); err != nil || !systems {
		return err
	}
	return makeSystems(ctx, dir, out)
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

// makeSystems makes a system for each suite that a kernel is tested under. A
// kernel that the user brought is not tested so.
func makeSystems(ctx context.Context, dir string, out io.Writer) error {
	if _, own, err := kernel.Own(os.Getenv); own || err != nil {
		return err
	}
	id, _, err := kernel.Distribution()
	if err != nil {
		return err
	}
	var missing []error
	for _, spec := range kernel.Matrix(id) {
		k, err := kernel.Find(dir, spec)
		if err != nil {
			return err
		}
		for _, suite := range system.Suites(id, k.Name) {
			s, err := system.Make(ctx, dir, system.Spec{Suite: suite, Kernel: k}, out)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				missing = append(missing, err)
				continue
			}
			fmt.Fprintf(out, "system %s with kernel %s: %s\n", suite, k, s.Image)
		}
	}
	return errors.Join(missing...)
}
