package vmtest

import (
	"os"
	"strings"
	"testing"

	"vfio-hotplug/internal/vmtest/cache"
	"vfio-hotplug/internal/vmtest/kernel"
)

// Kernels gives the kernels to test on: those that the environment variable
// GUESTS names, "all" or such as "6.1,7.3" or "newest". The test is skipped when GUESTS is
// not set, and with -short. A kernel that is asked for and not there is fatal.
func Kernels(t testing.TB) []Kernel {
	t.Helper()
	want := os.Getenv("GUESTS")
	switch {
	case testing.Short():
		t.Skip("a guest takes half a minute: not with -short")
	case want == "":
		t.Skip("guests run when asked for: set GUESTS=all, or GUESTS=6.1,7.3")
	}
	var names []string
	if want != "all" {
		names = strings.Split(want, ",")
	}
	dir, err := cache.Dir()
	if err != nil {
		t.Fatal(err)
	}
	kernels, err := kernel.Choose(dir, os.Getenv, names...)
	if err != nil {
		t.Fatalf("GUESTS=%s: %v", want, err)
	}
	return kernels
}

// EachKernel runs a test on each of Kernels, as a subtest with the kernel's
// name.
func EachKernel(t *testing.T, test func(t *testing.T, k Kernel)) {
	t.Helper()
	for _, k := range Kernels(t) {
		t.Run(k.Name, func(t *testing.T) { test(t, k) })
	}
}
