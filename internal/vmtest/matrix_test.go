package vmtest

import (
	"runtime"
	"testing"
)

// A namedTest is a test that ends when it is told to.
type namedTest struct {
	testing.TB
	name   string
	failed bool
}

func (n *namedTest) Helper()      {}
func (n *namedTest) Name() string { return n.name }
func (n *namedTest) Fatalf(string, ...any) {
	n.failed = true
	runtime.Goexit()
}

func TestATestIsCalledAsItsKind(t *testing.T) {
	for name, test := range map[string]struct {
		pattern string
		ok      bool
	}{
		"TestGuestPlug/6.1":              {GuestTests, true},
		"TestContractOfRealKernels":      {GuestTests, true},
		"TestPlug":                       {GuestTests, false},
		"TestGuestViews/6.1/bookworm":    {SystemTests, true},
		"TestGuestPackageSATA":           {SystemTests, true},
		"TestGuestOfASystemIsRestored":   {SystemTests, true},
		"TestGuestSeesDrivesComeAndGo/x": {SystemTests, false},
	} {
		fake, over := &namedTest{name: name}, make(chan struct{})
		go func() {
			defer close(over)
			called(fake, test.pattern, "is of this kind")
		}()
		<-over
		if fake.failed == test.ok {
			t.Errorf("%s, which has to match %s: fatal %v", name, test.pattern, fake.failed)
		}
	}
}
