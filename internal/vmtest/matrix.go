package vmtest

import (
	"os"
	"slices"
	"strings"
	"testing"

	"vfio-hotplug/internal/vmtest/cache"
	"vfio-hotplug/internal/vmtest/kernel"
	"vfio-hotplug/internal/vmtest/system"
)

// Kernels gives the kernels to test on: those that the environment variable
// GUESTS names, "all" or such as "6.1,7.3". The test is skipped when GUESTS is
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
	own, ok, err := kernel.Own(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	if ok {
		return []Kernel{own}
	}
	return choose(t, want)
}

func choose(t testing.TB, want string) []Kernel {
	t.Helper()
	dir, err := cache.Dir()
	if err != nil {
		t.Fatal(err)
	}
	id, _, err := kernel.Distribution()
	if err != nil {
		t.Fatal(err)
	}
	names := strings.Split(want, ",")
	var kernels []Kernel
	for _, spec := range kernel.Matrix(id) {
		if want != "all" && !slices.Contains(names, spec.Name) {
			continue
		}
		k, err := kernel.Find(dir, spec)
		if err != nil {
			t.Fatalf("%v: fetch it with go run ./internal/vmtest/vmsetup", err)
		}
		kernels = append(kernels, k)
	}
	if len(kernels) == 0 || want != "all" && len(kernels) != len(names) {
		t.Fatalf("GUESTS=%s names a kernel that is not of the matrix of %s", want, id)
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

// EachSystem runs a test on each of Kernels and under each Debian that it is
// tested under with a package installed, as a subtest with the kernel's name
// and within it one with the suite's. The Config has both.
func EachSystem(t *testing.T, test func(t *testing.T, cfg Config)) {
	t.Helper()
	EachKernel(t, func(t *testing.T, k Kernel) {
		systems := systems(t, k)
		for _, s := range systems {
			t.Run(s.Suite, func(t *testing.T) { test(t, Config{Kernel: k, System: &s}) })
		}
		if len(systems) == 0 {
			t.Skipf("there is no package guest with kernel %s", k)
		}
	})
}

// systems gives what is made of a kernel of the matrix. A system that is not
// there is fatal.
func systems(t *testing.T, k Kernel) []System {
	t.Helper()
	id, _, err := kernel.Distribution()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := cache.Dir()
	if err != nil {
		t.Fatal(err)
	}
	if _, own, _ := kernel.Own(os.Getenv); own {
		return nil
	}
	var systems []System
	for _, suite := range system.Suites(id, k.Name) {
		s, err := system.Find(dir, system.Spec{Suite: suite, Kernel: k})
		if err != nil {
			t.Fatalf("%v: make it with go run ./internal/vmtest/vmsetup -systems", err)
		}
		systems = append(systems, s)
	}
	return systems
}
