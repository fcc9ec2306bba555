// Proof runs the guest scenarios many times and reports what came of it. Each
// round of a scenario on a kernel is run once and its result kept with the
// commit, so that a proof that was interrupted goes on where it stopped.
// Scenarios that count inside, by PROOF=1, have one round.
//
//	go run ./internal/vmtest/proof [-rounds N] [-run REGEXP]
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
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/vmtest/cache"
	"vfio-hotplug/internal/vmtest/kernel"
)

const scenarios = "vfio-hotplug/internal/vmtest/scenario"

// large are the scenarios that have large numbers of their own.
var large = map[string]bool{"TestGuestGuard": true, "TestGuestLatency": true}

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
	kernels, err := kernelNames()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d scenarios on %s, %d rounds; results in %s\n", len(names), strings.Join(kernels, ", "), rounds, p.results)
	for round := range rounds {
		for _, k := range kernels {
			for _, name := range names {
				if large[name] && round > 0 {
					continue
				}
				if err := p.once(ctx, out, result{name, k, round + 1}); err != nil {
					return err
				}
			}
		}
	}
	return p.report(out)
}

// proof is a compiled set of scenarios and where its results are kept.
type proof struct {
	program string
	results string
}

// prepare compiles the scenarios. Results belong to what was compiled: the
// commit, and what is changed in the tree.
func prepare(ctx context.Context) (*proof, error) {
	dir, err := cache.Dir()
	if err != nil {
		return nil, err
	}
	state, err := treeState(ctx)
	if err != nil {
		return nil, err
	}
	p := &proof{results: filepath.Join(dir, "proof", state)}
	if err := os.MkdirAll(p.results, 0o700); err != nil {
		return nil, err
	}
	p.program = filepath.Join(p.results, "scenario.test")
	return p, runIn(ctx, os.Stderr, "go", "test", "-c", "-o", p.program, scenarios)
}

// treeState names the commit and the uncommitted change on top of it.
func treeState(ctx context.Context) (string, error) {
	head, err := exec.CommandContext(ctx, "git", "rev-parse", "--short=12", "HEAD").Output()
	if err != nil {
		return "", fmt.Errorf("git rev-parse: %w", err)
	}
	change, err := exec.CommandContext(ctx, "git", "diff", "HEAD").Output()
	if err != nil {
		return "", fmt.Errorf("git diff: %w", err)
	}
	state := strings.TrimSpace(string(head))
	if len(change) > 0 {
		state += "+" + cache.Key(string(change))
	}
	return state, nil
}

func (p *proof) list(ctx context.Context, only string) ([]string, error) {
	if _, err := regexp.Compile(only); err != nil {
		return nil, err
	}
	text, err := exec.CommandContext(ctx, p.program, "-test.list", only).Output()
	if err != nil {
		return nil, fmt.Errorf("list the scenarios: %w", err)
	}
	names := strings.Fields(string(text))
	if len(names) == 0 {
		return nil, fmt.Errorf("no scenario matches %q", only)
	}
	return names, nil
}

func kernelNames() ([]string, error) {
	own, ok, err := kernel.Own(os.Getenv)
	if ok || err != nil {
		return []string{own.Name}, err
	}
	id, _, err := kernel.Distribution()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, spec := range kernel.Matrix(id) {
		names = append(names, spec.Name)
	}
	return names, nil
}

// result is one round of one scenario on one kernel.
type result struct {
	scenario, kernel string
	round            int
}

func (p *proof) file(r result) string {
	return filepath.Join(p.results, fmt.Sprintf("%s-%s-%d.log", r.scenario, r.kernel, r.round))
}

// once runs a round that has not been run. Its log gets its name when the
// round is over, so that what was interrupted counts for nothing.
func (p *proof) once(ctx context.Context, out io.Writer, r result) error {
	name := p.file(r)
	if _, err := os.Stat(name); err == nil {
		return nil
	}
	log, err := os.Create(name + ".part")
	if err != nil {
		return err
	}
	defer log.Close()
	fmt.Fprintf(out, "%s on %s, round %d ... ", r.scenario, r.kernel, r.round)
	cmd := exec.CommandContext(ctx, p.program, "-test.v", "-test.timeout", "0", "-test.run", "^"+r.scenario+"$")
	cmd.Env = append(os.Environ(), "GUESTS="+r.kernel, "PROOF=1")
	cmd.Dir = filepath.FromSlash("internal/vmtest/scenario")
	cmd.Stdout, cmd.Stderr = log, log
	failed := cmd.Run()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	word := "ok"
	if failed != nil {
		word = "FAILED: " + failed.Error() + ", see " + name
	}
	fmt.Fprintln(out, word)
	return os.Rename(name+".part", name)
}

// outcomes and figure are the lines that a scenario ends with.
var (
	outcomes = regexp.MustCompile(`(?m)^outcomes on \S+: (\d+) direct, (\d+) taken$`)
	figure   = regexp.MustCompile(`(?m)^figure: (.*)$`)
)

// report sums up all results that there are.
func (p *proof) report(out io.Writer) error {
	logs, err := filepath.Glob(filepath.Join(p.results, "*.log"))
	if err != nil {
		return err
	}
	type sum struct{ rounds, failed, direct, taken int }
	sums := map[string]*sum{}
	var figures []string
	failures := 0
	for _, name := range logs {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		base := strings.TrimSuffix(filepath.Base(name), ".log")
		key := base[:strings.LastIndexByte(base, '-')]
		s := sums[key]
		if s == nil {
			s = &sum{}
			sums[key] = s
		}
		s.rounds++
		if !strings.Contains(string(text), "\nPASS\n") {
			s.failed++
			failures++
		}
		if m := outcomes.FindStringSubmatch(string(text)); m != nil {
			direct, _ := strconv.Atoi(m[1])
			taken, _ := strconv.Atoi(m[2])
			s.direct, s.taken = s.direct+direct, s.taken+taken
		}
		for _, m := range figure.FindAllStringSubmatch(string(text), -1) {
			figures = append(figures, m[1])
		}
	}
	keys := make([]string, 0, len(sums))
	for key := range sums {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nSCENARIO\tROUNDS\tFAILED\tDIRECT\tTAKEN")
	for _, key := range keys {
		s := sums[key]
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\n", key, s.rounds, s.failed, s.direct, s.taken)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	for _, line := range figures {
		fmt.Fprintln(out, line)
	}
	if failures > 0 {
		return errors.New(strconv.Itoa(failures) + " rounds failed: the logs are in " + p.results)
	}
	return nil
}

func runIn(ctx context.Context, out io.Writer, argv ...string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	return cmd.Run()
}
