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
	"slices"
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
	dir  string
	used *os.File // a shared lock: while it is held nobody removes the snapshot
}

const (
	stateFile = "state"     // what QEMU has saved
	sumsFile  = "state.sum" // by which damage is seen
	// keptSnapshots is how many are kept, those that were used last. Each takes 130
	// to 450 MB; a run on three kernels uses fifteen.
	keptSnapshots = 24
)

// snapshot finds the snapshot of a guest that is restored, or makes it: then it
// boots the guest, in a directory of its own.
func (g *Guest) snapshot(ctx context.Context) (snapshot, error) {
	dir, err := g.snapshotDir()
	if err != nil {
		return snapshot{}, err
	}
	if err := cache.Fill(dir, func(dir string) error { return g.cfg.makeSnapshot(ctx, dir) }); err != nil {
		return snapshot{}, fmt.Errorf("save a guest in %s: %w", dir, err)
	}
	used, err := cache.Share(dir + ".lock")
	if err != nil {
		return snapshot{}, err
	}
	now := time.Now()
	if err := os.Chtimes(dir, now, now); err != nil {
		used.Close()
		return snapshot{}, err
	}
	forgetSnapshots(filepath.Dir(dir))
	return snapshot{dir, used}, nil
}

// remove removes a damaged snapshot, unless somebody else uses it.
func (s snapshot) remove() error {
	s.used.Close()
	return removeUnused(s.dir)
}

func removeUnused(dir string) error {
	lock, err := cache.TryLock(dir + ".lock")
	if err != nil {
		return err
	}
	defer lock.Close()
	return os.RemoveAll(dir)
}

// forgetSnapshots removes the snapshots that were not used for the longest time.
// Lock files stay: somebody may wait for one.
func forgetSnapshots(all string) {
	entries, err := os.ReadDir(all)
	if err != nil {
		return
	}
	var dirs []os.FileInfo
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || !info.IsDir() {
			continue
		}
		if unfinished := ".unfinished"; strings.HasSuffix(info.Name(), unfinished) { // of a process that died, unless it is locked
			if lock, err := cache.TryLock(filepath.Join(all, strings.TrimSuffix(info.Name(), unfinished)+".lock")); err == nil {
				os.RemoveAll(filepath.Join(all, info.Name()))
				lock.Close()
			}
			continue
		}
		dirs = append(dirs, info)
	}
	slices.SortFunc(dirs, func(a, b os.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	for _, old := range dirs[min(keptSnapshots, len(dirs)):] {
		removeUnused(filepath.Join(all, old.Name()))
	}
}

// snapshotDir says where the snapshot of a guest belongs.
func (g *Guest) snapshotDir() (string, error) {
	cacheDir, err := cache.Dir()
	if err != nil {
		return "", err
	}
	key, err := g.snapshotKey()
	name := strings.ReplaceAll(g.cfg.name(), " ", "-") + "-" + key
	return filepath.Join(cacheDir, "snapshots", name), err
}

// snapshotVersion changes when the same parts shall make another snapshot.
const snapshotVersion = "2"

// snapshotKey is a key of what a saved guest is made of: QEMU itself, this machine
// since its boot, whose clock the guest has measured, and all of QEMU's
// arguments. There a file has a key of its contents in its name.
func (g *Guest) snapshotKey() (string, error) {
	host, err := hostKey()
	if err != nil {
		return "", err
	}
	parts := []string{snapshotVersion, host}
	image, initrd := "", ""
	if g.cfg.System == nil {
		image, initrd, err = g.bootFiles()
	} else { // which has them
		var system string
		system, err = g.systemKey()
		parts = append(parts, system)
	}
	if err != nil {
		return "", err
	}
	args, err := g.arguments(image, initrd, wiring{}, []string{g.cfg.testWords()})
	return cache.Key(append(parts, args...)...), err
}

// systemKey is a key of a whole Debian with the agent. Its image is made once and
// never changed.
func (g *Guest) systemKey() (string, error) {
	agent, err := buildAgent()
	if err != nil {
		return "", err
	}
	contents, err := cache.FileKey(agent)
	if err != nil {
		return "", err
	}
	image, err := os.Stat(g.cfg.System.Image)
	if err != nil {
		return "", err
	}
	return cache.Key(contents, g.cfg.System.Image, stamp(image)), nil
}

func stamp(info os.FileInfo) string {
	return fmt.Sprintf("%d %s", info.Size(), info.ModTime().UTC().Format(time.RFC3339Nano))
}

// hostKey is a key of QEMU and of the machine that it runs on.
func hostKey() (string, error) {
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
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	model := regexp.MustCompile(`(?m)^model name\s*:.*$`).Find(processor)
	return cache.Key(contents, string(version), string(model), string(boot)), nil
}

// makeSnapshot boots a guest with empty bays and saves it.
func (c Config) makeSnapshot(ctx context.Context, dir string) error {
	c.Boot, c.Devices = true, nil
	g, err := start(ctx, c, dir, true)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, saveDeadline)
	defer cancel()
	err = g.save(ctx)
	return errors.Join(err, g.Close(), os.Remove(filepath.Join(dir, mailboxFile)))
}

const (
	// saveDeadline is for a save, which takes a second or two.
	saveDeadline = 2 * time.Minute
	// restoreDeadline is for a restore, which does too.
	restoreDeadline = 2 * time.Minute
)

// save stops the guest and writes it to a file.
func (g *Guest) save(ctx context.Context) error {
	if err := g.QMP.Execute(ctx, "stop", nil, nil); err != nil {
		return err
	}
	parameters := map[string]any{"max-bandwidth": int64(64 << 30)} // bytes a second: no limit
	if err := g.QMP.Execute(ctx, "migrate-set-parameters", parameters, nil); err != nil {
		return err
	}
	var written error
	err := g.migrate(ctx, "migrate", func(state io.ReadWriter) {
		written = writeState(filepath.Join(g.dir, stateFile), state)
	})
	if err := errors.Join(written, err); err != nil {
		return err
	}
	sums, err := g.cfg.sums(g.dir)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(g.dir, sumsFile), sums, 0o600)
}

func writeState(path string, from io.Reader) error {
	to, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer to.Close()
	if _, err := io.Copy(to, from); err != nil {
		return err
	}
	return to.Close()
}

// migrate has QEMU write or read the state of the guest, which is stopped, and us
// what is at the other end. Both have ended when it returns.
func (g *Guest) migrate(ctx context.Context, command string, ours func(state io.ReadWriter)) error {
	near, far, err := pair()
	if err != nil {
		return err
	}
	err = errors.Join(g.QMP.GiveFile(ctx, "state", far), far.Close())
	if err != nil {
		return errors.Join(err, near.Close())
	}
	done := make(chan struct{})
	go func() {
		ours(near)
		near.Close() // QEMU's end ends, or fails, too
		close(done)
	}()
	err = g.awaitMigration(ctx, command)
	if err != nil {
		near.Close()
	}
	<-done
	return err
}

// awaitMigration has QEMU do its part of a migration.
func (g *Guest) awaitMigration(ctx context.Context, command string) error {
	capabilities := map[string]any{"capabilities": []any{map[string]any{"capability": "events", "state": true}}}
	if err := g.QMP.Execute(ctx, "migrate-set-capabilities", capabilities, nil); err != nil {
		return err
	}
	mark := g.QMP.Mark()
	if err := g.QMP.Execute(ctx, command, map[string]any{"uri": "fd:state"}, nil); err != nil {
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
		return fmt.Errorf("qmp %s: %w; QEMU said: %s", command, err, tail(filepath.Join(g.dir, qemuFile)))
	}
	return nil
}

// sums gives what a snapshot's files are known by: the state by a check sum and its
// size, a root drive by its size and time.
func (c Config) sums(dir string) ([]byte, error) {
	f, err := os.Open(filepath.Join(dir, stateFile))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	size, err := io.Copy(sum, f)
	if err != nil {
		return nil, err
	}
	sums := fmt.Appendf(nil, "%s %08x %d\n", stateFile, sum.Sum32(), size)
	if c.System == nil {
		return sums, nil
	}
	root, err := os.Stat(filepath.Join(dir, rootFile))
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(sums, "%s %s\n", rootFile, stamp(root)), nil
}

// errDamaged is the reason that a snapshot cannot be used, now or later.
var errDamaged = errors.New("the snapshot is damaged")

// check says whether a snapshot is as it was saved.
func (g *Guest) check(s snapshot) error {
	want, err := os.ReadFile(filepath.Join(s.dir, sumsFile))
	if err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	sums, err := g.cfg.sums(s.dir)
	if err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	if !bytes.Equal(sums, want) {
		return fmt.Errorf("%w: it is %q, and was saved as %q", errDamaged, sums, want)
	}
	return nil
}

// resume restores the guest from its snapshot. One that is damaged is thrown away
// and made anew, once.
func (g *Guest) resume(ctx context.Context) error {
	s, err := g.snapshot(ctx)
	if err != nil {
		return err
	}
	err = g.restore(ctx, s)
	if !errors.Is(err, errDamaged) || ctx.Err() != nil {
		s.used.Close()
		return err
	}
	g.Account(Entry{What: ThrownAway, Fault: err.Error()})
	warn("%v; it is thrown away and made anew: %s", err, s.dir)
	g.hangUp()
	if err := s.remove(); err != nil {
		return err
	}
	if s, err = g.snapshot(ctx); err != nil {
		return err
	}
	defer s.used.Close()
	return g.restore(ctx, s)
}

// restore starts a QEMU that goes on where a snapshot was saved.
func (g *Guest) restore(ctx context.Context, s snapshot) error {
	g.began = time.Now()
	ctx, cancel := context.WithTimeout(ctx, restoreDeadline)
	defer cancel()
	if err := g.check(s); err != nil {
		return err
	}
	files := []string{consoleFile}
	if g.cfg.System != nil {
		files = append(files, rootFile, kernelFile, initrdFile)
	}
	for _, name := range files {
		if err := copyImage(ctx, filepath.Join(s.dir, name), filepath.Join(g.dir, name)); err != nil {
			return err
		}
	}
	if err := g.launch(ctx, []string{"-incoming", "defer"}, nil); err != nil {
		return err
	}
	if err := g.load(ctx, filepath.Join(s.dir, stateFile)); err != nil {
		if ctx.Err() == nil {
			err = fmt.Errorf("%w: %w", errDamaged, err)
		}
		return err
	}
	if err := g.QMP.Execute(ctx, "cont", nil, nil); err != nil {
		return err
	}
	g.agent = jsonrpc.NewClient(g.qemu.agent)
	ask := wire.Resume{Time: time.Now(), Seed: make([]byte, 64)}
	rand.Read(ask.Seed)
	var reply wire.Outcome
	if err := g.call(ctx, "Resume", ask, &reply); err != nil {
		return err
	}
	g.restored = reply == wire.Outcome{}
	return failure(reply)
}

// load has QEMU read the state of the guest from a file.
func (g *Guest) load(ctx context.Context, path string) error {
	state, err := os.Open(path)
	if err != nil {
		return err
	}
	defer state.Close()
	return g.migrate(ctx, "migrate-incoming", func(qemu io.ReadWriter) {
		io.Copy(qemu, state) // when it fails, so does QEMU, which says so
	})
}

// warn tells whoever runs the tests what the laboratory does by itself.
func warn(format string, a ...any) { fmt.Fprintf(os.Stderr, "vmtest: "+format+"\n", a...) }
