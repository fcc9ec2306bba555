package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"vfio-hotplug/internal/vmtest"
)

// result is one round of one scenario on one kernel, by its release.
type result struct {
	scenario, release string
	round             int
}

// A passed round's log ends in passedSuffix; a failed one's in the time and
// failedSuffix, and the round is run again.
const (
	passedSuffix = ".log"
	failedSuffix = ".failed"
)

func (r result) String() string { return fmt.Sprintf("%s@%s@%d", r.scenario, r.release, r.round) }

// parseResult reads the name of a log.
func parseResult(name string) (r result, ok bool) {
	parts := strings.SplitN(name, "@", 3)
	if len(parts) < 3 {
		return r, false
	}
	number, _, _ := strings.Cut(parts[2], ".")
	round, err := strconv.Atoi(number)
	return result{parts[0], parts[1], round}, err == nil
}

// once runs a round that has not been passed. Its log gets its name when the
// round is over, so that what was interrupted counts for nothing.
func (p *proof) once(ctx context.Context, out io.Writer, r result, k vmtest.Kernel) error {
	name := filepath.Join(p.results, r.String())
	if _, err := os.Stat(name + passedSuffix); err == nil {
		return nil
	}
	log, err := os.Create(name + ".part")
	if err != nil {
		return err
	}
	defer log.Close()
	fmt.Fprintf(out, "%s on %s, round %d ... ", r.scenario, k, r.round)
	fmt.Fprintf(log, "%s%s\n", hostPrefix, vmtest.Host(k))
	cmd := exec.CommandContext(ctx, p.scenarios(), "-test.v", "-test.timeout", "0", "-test.run", "^"+r.scenario+"$")
	cmd.Env = append(os.Environ(), "GUESTS="+k.Name, "PROOF=1", vmtest.ProgramsVar+"="+p.programs)
	cmd.Dir = filepath.FromSlash("internal/vmtest/scenario")
	cmd.Stdout, cmd.Stderr = log, log
	failure := cmd.Run()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if failure == nil {
		failure = confirm(name+".part", r)
	}
	if failure != nil {
		failed := name + "." + time.Now().Format("20060102-150405") + failedSuffix
		fmt.Fprintf(out, "FAILED: %v, see %s\n", failure, failed)
		p.failed = append(p.failed, failed)
		return os.Rename(name+".part", failed)
	}
	fmt.Fprintln(out, "ok")
	return os.Rename(name+".part", name+passedSuffix)
}

// confirm makes sure that a log is of a scenario that ran, and not of one that
// was skipped or of another kernel than its name says.
func confirm(log string, r result) error {
	text, err := os.ReadFile(log)
	if err != nil {
		return err
	}
	if !regexp.MustCompile(`(?m)^--- PASS: ` + r.scenario + ` `).Match(text) {
		return fmt.Errorf("%s was not passed", r.scenario)
	}
	if !strings.Contains(string(text), "("+r.release+")") {
		return fmt.Errorf("no guest had the kernel %s", r.release)
	}
	return nil
}
