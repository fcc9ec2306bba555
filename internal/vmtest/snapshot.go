package vmtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/rpc/jsonrpc"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"vfio-hotplug/internal/vmtest/cache"
	"vfio-hotplug/internal/vmtest/qmp"
	"vfio-hotplug/internal/vmtest/wire"
)

// A snapshot is a guest that has booted, saved before anything was plugged into
// it. It is a directory in the cache, whose name has a key of everything that is
// in it.
type snapshot struct {
	dir string
}

const (
	stateFile = "state"     // what QEMU has saved
	sumFile   = "state.sum" // of that file
	// unusedSnapshot is how long a snapshot is kept that nobody restores. Each takes
	// a few hundred megabytes.
	unusedSnapshot = 24 * time.Hour
)

// snapshot finds the snapshot of a guest that is restored, or makes it: then it
// boots the guest, in a directory of its own.
func (g *Guest) snapshot(ctx context.Context) (snapshot, error) {
	s, err := g.snapshotPlace(ctx)
	if err != nil {
		return s, err
	}
	forgetSnapshots(filepath.Dir(s.dir))
	if err := cache.Fill(s.dir, func(dir string) error { return g.cfg.makeSnapshot(ctx, dir) }); err != nil {
		return s, fmt.Errorf("save a guest in %s: %w", s.dir, err)
	}
	now := time.Now()
	return s, os.Chtimes(s.dir, now, now)
}

// snapshotPlace says where the snapshot of a guest belongs.
func (g *Guest) snapshotPlace(ctx context.Context) (snapshot, error) {
	cacheDir, err := cache.Dir()
	if err != nil {
		return snapshot{}, err
	}
	key, err := g.snapshotKey(ctx)
	name := strings.ReplaceAll(g.cfg.name(), " ", "-") + "-" + key
	return snapshot{filepath.Join(cacheDir, "snapshots", name)}, err
}

// forgetSnapshots removes those that nobody has used for a while, and what a
// process left that died while it made one. Lock files stay: somebody may wait
// for one.
func forgetSnapshots(all string) {
	dirs, err := filepath.Glob(filepath.Join(all, "*"))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		if info, err := os.Stat(dir); err == nil && info.IsDir() && time.Since(info.ModTime()) > unusedSnapshot {
			os.RemoveAll(dir)
		}
	}
}

// snapshotKey is a key of what a saved guest is made of: QEMU itself, this machine's
// processor, and all of QEMU's arguments. There a file has a key of its contents
// in its name.
func (g *Guest) snapshotKey(ctx context.Context) (string, error) {
	emulator, err := emulatorKey()
	if err != nil {
		return "", err
	}
	parts := []string{snapshotVersion, emulator}
	image, initrd := "", ""
	if g.cfg.System == nil {
		image, initrd, err = g.bootFiles(ctx)
	} else { // which has them
		var agent string
		agent, err = buildAgent()
		parts = append(parts, g.cfg.System.Image, agent)
	}
	if err != nil {
		return "", err
	}
	args, err := g.arguments(image, initrd, wiring{}, nil)
	return cache.Key(append(parts, args...)...), err
}

// snapshotVersion changes when the same parts shall make another snapshot.
const snapshotVersion = "1"

// emulatorKey is a key of QEMU and of the processor that it runs on.
func emulatorKey() (string, error) {
	program, err := exec.LookPath(qemuProgram)
	if err != nil {
		return "", fmt.Errorf("%w (go run ./internal/vmtest/vmsetup installs it)", err)
	}
	contents, err := cache.FileKey(program)
	if err != nil {
		return "", err
	}
	version, err := exec.Command(program, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", program, err)
	}
	processor, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "", err
	}
	model := regexp.MustCompile(`(?m)^model name\s*:.*$`).Find(processor)
	return cache.Key(contents, string(version), string(model)), nil
}

// makeSnapshot boots a guest with empty bays and saves it.
func (c Config) makeSnapshot(ctx context.Context, dir string) error {
	c.Boot, c.Devices = true, nil
	g, err := start(ctx, c, dir, true)
	if err != nil {
		return err
	}
	err = g.save(ctx)
	return errors.Join(err, g.Close(), os.Remove(filepath.Join(dir, mailboxFile)))
}

// save stops the guest and writes it to a file.
func (g *Guest) save(ctx context.Context) error {
	if err := g.QMP.Execute(ctx, "stop", nil, nil); err != nil {
		return err
	}
	parameters := map[string]any{"max-bandwidth": int64(64 << 30)} // bytes a second: no limit
	if err := g.QMP.Execute(ctx, "migrate-set-parameters", parameters, nil); err != nil {
		return err
	}
	if err := g.migrate(ctx, "migrate", "exec:cat >"+stateFile); err != nil {
		return err
	}
	path := filepath.Join(g.dir, stateFile)
	sum, err := sumOf(path)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(g.dir, sumFile), sum, 0o600)
}

// migrate saves or restores the guest, which is stopped.
func (g *Guest) migrate(ctx context.Context, command, uri string) error {
	capabilities := map[string]any{"capabilities": []any{map[string]any{"capability": "events", "state": true}}}
	if err := g.QMP.Execute(ctx, "migrate-set-capabilities", capabilities, nil); err != nil {
		return err
	}
	mark := g.QMP.Mark()
	if err := g.QMP.Execute(ctx, command, map[string]any{"uri": uri}, nil); err != nil {
		return err
	}
	status := ""
	_, err := g.QMP.Wait(ctx, mark, func(e qmp.Event) bool {
		var data struct{ Status string }
		if e.Name != "MIGRATION" || json.Unmarshal(e.Data, &data) != nil {
			return false
		}
		status = data.Status
		return status == "completed" || status == "failed"
	})
	if err == nil && status == "failed" {
		err = errors.New("it failed")
	}
	if err != nil {
		return fmt.Errorf("qmp %s %s: %w; QEMU said: %s", command, uri, err, tail(filepath.Join(g.dir, qemuFile)))
	}
	return nil
}

// sumOf gives the check sum of a file, with its size.
func sumOf(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	size, err := io.Copy(sum, f)
	return fmt.Appendf(nil, "%08x %d\n", sum.Sum32(), size), err
}

// errSnapshot is the reason that a guest cannot be restored.
var errSnapshot = errors.New("snapshot cannot be used")

// check says whether a snapshot is as it was saved.
func (s snapshot) check() error {
	want, err := os.ReadFile(filepath.Join(s.dir, sumFile))
	if err != nil {
		return err
	}
	sum, err := sumOf(filepath.Join(s.dir, stateFile))
	if err != nil {
		return err
	}
	if !bytes.Equal(sum, want) {
		return fmt.Errorf("check sum and size are %s, were %s when it was saved", bytes.TrimSpace(sum), bytes.TrimSpace(want))
	}
	return nil
}

// resume restores the guest from its snapshot. One that cannot be used is thrown
// away and made anew, once.
func (g *Guest) resume(ctx context.Context) error {
	s, err := g.snapshot(ctx)
	if err != nil {
		return err
	}
	err = g.restore(ctx, s)
	if !errors.Is(err, errSnapshot) || ctx.Err() != nil {
		return err
	}
	say("%v; it is thrown away and made anew: %s", err, s.dir)
	g.hangUp()
	if err := os.RemoveAll(s.dir); err != nil {
		return err
	}
	if s, err = g.snapshot(ctx); err != nil {
		return err
	}
	return g.restore(ctx, s)
}

// restore starts a QEMU that goes on where a snapshot was saved.
func (g *Guest) restore(ctx context.Context, s snapshot) error {
	ctx, cancel := context.WithTimeout(ctx, restoreDeadline)
	defer cancel()
	if err := s.check(); err != nil {
		return fmt.Errorf("%w: %w", errSnapshot, err)
	}
	names := []string{consoleFile}
	if g.cfg.System != nil {
		names = append(names, rootFile)
	}
	for _, name := range names {
		if err := copyImage(ctx, filepath.Join(s.dir, name), filepath.Join(g.dir, name)); err != nil {
			return err
		}
	}
	if err := g.launch(ctx, []string{"-incoming", "defer"}, nil); err != nil {
		return err
	}
	if err := g.migrate(ctx, "migrate-incoming", "exec:cat "+quote(filepath.Join(s.dir, stateFile))); err != nil {
		return fmt.Errorf("%w: %w", errSnapshot, err)
	}
	if err := g.QMP.Execute(ctx, "cont", nil, nil); err != nil {
		return err
	}
	g.agent = jsonrpc.NewClient(g.qemu.agent)
	ask := wire.Resume{Time: time.Now(), Seed: make([]byte, 64)}
	rand.Read(ask.Seed)
	var reply wire.Outcome
	if err := g.call(ctx, "Resume", ask, &reply); err != nil {
		return fmt.Errorf("%w: %w", errSnapshot, err)
	}
	g.restored = true
	return failure(reply)
}

// restoreDeadline is for a restore, which takes a second or two.
const restoreDeadline = time.Minute

// say tells whoever runs the tests what the laboratory does by itself.
func say(format string, a ...any) { fmt.Fprintf(os.Stderr, "vmtest: "+format+"\n", a...) }
