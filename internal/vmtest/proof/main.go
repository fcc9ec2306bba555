// Proof runs the guest scenarios many times and reports what came of it. Each
// round of a scenario on a kernel is run until it is passed, and its result kept
// with the state of the tree, so that a proof that was interrupted goes on where
// it stopped. Scenarios that count inside, by PROOF=1, have one round.
//
//	go run ./internal/vmtest/proof [-rounds N] [-run REGEXP]
//
// It must be called from the top of the tree.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/vmtest"
	"vfio-hotplug/internal/vmtest/cache"
	"vfio-hotplug/internal/vmtest/kernel"
)

// large are the scenarios that have large numbers of their own.
var large = map[string]bool{
	"TestGuestGuard": true, "TestGuestKilled": true, "TestGuestLatency": true, "TestGuestMountRace": true,
	"TestGuestPackage": true, "TestGuestPackageSATA": true, "TestGuestSoak": true,
}

func main() {
	rounds := flag.Int("rounds", 10, "how often to run each scenario on each kernel")
	only := flag.String("run", ".", "run only scenarios whose name matches")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, *rounds, *only); err != nil {
		fmt.Fprintf(os.Stderr, "proof: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, rounds int, only string) error {
	p, err := prepare(ctx)
	if err != nil {
		return err
	}
	names, err := p.list(ctx, only)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d scenarios on %d kernels, %d rounds; results in %s\n", len(names), len(p.kernels), rounds, p.results)
	for round := range rounds {
		for _, k := range p.kernels {
			for _, name := range names {
				if large[name] && round > 0 {
					continue
				}
				if err := p.once(ctx, out, result{name, k.Release, round + 1}, k); err != nil {
					return err
				}
			}
		}
	}
	return p.report(out)
}

// proof is a compiled set of scenarios, of the programs that they are about,
// and where its results are kept.
type proof struct {
	state    state
	kernels  []vmtest.Kernel
	programs string // a directory
	results  string
	failed   []string // logs of this run
}

// prepare compiles everything once. Results belong to what was compiled.
func prepare(ctx context.Context) (*proof, error) {
	dir, err := cache.Dir()
	if err != nil {
		return nil, err
	}
	kernels, err := kernel.Choose(dir, os.Getenv)
	if err != nil {
		return nil, err
	}
	before, err := readState(ctx)
	if err != nil {
		return nil, err
	}
	p := &proof{state: before, kernels: kernels, results: resultsDir(dir, before)}
	if p.programs, err = buildAll(ctx, p.results); err != nil {
		return nil, err
	}
	after, err := readState(ctx)
	if err == nil && after != before {
		err = errors.New("the tree was changed while it was compiled: once more")
	}
	return p, err
}

func (p *proof) list(ctx context.Context, only string) ([]string, error) {
	if _, err := regexp.Compile(only); err != nil {
		return nil, err
	}
	text, err := exec.CommandContext(ctx, p.scenarios(), "-test.list", only).Output()
	if err != nil {
		return nil, fmt.Errorf("list the scenarios: %w", err)
	}
	var names []string
	for name := range strings.FieldsSeq(string(text)) {
		if strings.HasPrefix(name, "TestGuest") {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("no scenario matches %q", only)
	}
	return names, nil
}
