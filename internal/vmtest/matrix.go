package vmtest

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"vfio-hotplug/internal/vmtest/cache"
	"vfio-hotplug/internal/vmtest/kernel"
	"vfio-hotplug/internal/vmtest/system"
)

// GuestTests matches the names of the tests that start guests, by which make test
// finds them.
const GuestTests = "^Test(Guest|ContractOfRealKernels)"

// SystemTests matches the names of those that boot a whole Debian, which make
// test-quick leaves out.
const SystemTests = "^TestGuest(Package|Views|NVMeIsUnloaded|OfASystem)"

// called makes sure that a test is found where others of its kind are.
func called(t testing.TB, pattern, what string) {
	t.Helper()
	if !regexp.MustCompile(pattern).MatchString(t.Name()) {
		t.Fatalf("the name of a test that %s has to match %s", what, pattern)
	}
}

// Kernels gives the kernels to test on: those that the environment variable
// GUESTS names, "all" or such as "6.1,7.3" or "newest". The test is skipped when GUESTS is
// not set, and with -short. A kernel that is asked for and not there is fatal.
func Kernels(t testing.TB) []Kernel {
	t.Helper()
	called(t, GuestTests, "starts guests")
	want := os.Getenv("GUESTS")
	switch {
	case testing.Short():
		t.Skip("guests take seconds: not with -short")
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
// name, beside other such tests.
func EachKernel(t *testing.T, test func(t *testing.T, k Kernel)) {
	t.Helper()
	kernels := Kernels(t)
	t.Parallel()
	for _, k := range kernels {
		t.Run(k.Name, func(t *testing.T) {
			t.Parallel()
			test(t, k)
		})
	}
}

// EachSystem runs a test on each of Kernels and under each Debian that it is
// tested under with a package installed, as a subtest with the kernel's name
// and within it one with the suite's. The Config has both.
func EachSystem(t *testing.T, test func(t *testing.T, cfg Config)) {
	t.Helper()
	called(t, SystemTests, bootsASystem)
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

const bootsASystem = "boots a whole Debian"

// systems gives what is made of a kernel of the matrix. A system that is not
// there is fatal.
func systems(t *testing.T, k Kernel) []System {
	t.Helper()
	called(t, SystemTests, bootsASystem)
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
