package vmtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/rpc"
	"net/rpc/jsonrpc"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"vfio-hotplug/internal/vmtest/cache"
	"vfio-hotplug/internal/vmtest/qmp"
	"vfio-hotplug/internal/vmtest/wire"
)

// A Guest is a running machine. Its methods may be called by several
// goroutines at once; each ends early when its context does.
type Guest struct {
	QMP *qmp.Conn // QEMU's monitor

	cfg       Config
	dir       string
	qemu      *qemu // nil: it was never switched on
	agent     *rpc.Client
	log       *transcript
	began     time.Time // of its boot or restore
	restored  bool
	saved     bool // it is to be saved
	startTime time.Duration
	closing   sync.Once
	closed    error // the result of closing

	mu        sync.Mutex
	next      int // number of the next device
	plugged   map[int]plugged
	processes []*Process
}

type plugged struct {
	id     string
	device Device
	disk   *disk
	second *plugged // function 1, nil for none
}

// functions gives the functions of a device in the order in which QEMU is to be
// told of them: the machine sees them with function 0, which is the last.
func (p plugged) functions() []plugged {
	if p.second == nil {
		return []plugged{p}
	}
	return []plugged{*p.second, p}
}

// Start starts a guest in the empty directory dir, which takes its console, logs
// and images: it restores it where its Config allows that, else boots it. It
// returns when the agent answers, files and devices are there and Config.Modules
// are loaded. The error of a boot has the end of the console.
func Start(ctx context.Context, cfg Config, dir string) (*Guest, error) {
	return start(ctx, cfg, dir, false)
}

// start is Start, or starts a guest to be saved, with nothing brought in.
func start(ctx context.Context, cfg Config, dir string, toSave bool) (*Guest, error) {
	log, err := newTranscript(filepath.Join(dir, "agent.log"))
	if err != nil {
		return nil, err
	}
	g := &Guest{cfg: cfg, dir: dir, log: log, saved: toSave, plugged: map[int]plugged{}}
	if err := g.switchOn(ctx); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	g.startTime = time.Since(g.began)
	g.Account(Entry{What: g.how(), Seconds: g.startTime.Seconds()})
	if toSave {
		return g, nil
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.bootDeadline())
	defer cancel()
	if err := g.furnish(ctx); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// switchOn starts the machine, and returns when its agent answers.
func (g *Guest) switchOn(ctx context.Context) error {
	g.began = time.Now()
	if g.cfg.cold() {
		if err := g.fill(); err != nil {
			return err
		}
	}
	if g.cfg.boots() {
		return g.boot(ctx)
	}
	err := g.resume(ctx)
	if err == nil || ctx.Err() != nil {
		return err
	}
	warn("this guest is booted, since it cannot be restored: %v", err)
	g.hangUp()
	return g.boot(ctx)
}

// furnish brings in what the Config has besides the machine.
func (g *Guest) furnish(ctx context.Context) error {
	if err := g.deliver(ctx); err != nil {
		return err
	}
	if err := g.plugAll(ctx); err != nil {
		return err
	}
	for _, module := range g.cfg.Modules {
		name, params, _ := strings.Cut(module, " ")
		if err := g.LoadModule(ctx, name, params); err != nil {
			return err
		}
	}
	return nil
}

// fill prepares the devices that are there when the guest boots.
func (g *Guest) fill() error {
	for bay, device := range g.cfg.Devices {
		if err := g.free(bay); err != nil {
			return err
		}
		p, err := g.prepare(bay, device)
		if err != nil {
			return err
		}
		g.plugged[bay] = p
	}
	return nil
}

// plugAll plugs in the devices that are not there yet, and waits until the
// kernel has them.
func (g *Guest) plugAll(ctx context.Context) error {
	bays := slices.Sorted(maps.Keys(g.cfg.Devices))
	bays = slices.DeleteFunc(bays, func(bay int) bool { _, there := g.plugged[bay]; return there })
	for _, bay := range bays {
		if err := g.Plug(ctx, bay, g.cfg.Devices[bay]); err != nil {
			return err
		}
	}
	for _, bay := range bays {
		if err := g.waitPresent(ctx, bay); err != nil {
			return err
		}
	}
	return nil
}

// waitPresent waits until the kernel has all functions of what a bay holds.
func (g *Guest) waitPresent(ctx context.Context, bay int) error {
	last := "/sys/bus/pci/devices/" + PortAddress(bay) + "/0000:*.0"
	if g.cfg.Devices[bay].Second != nil {
		last = strings.TrimSuffix(last, "0") + "1"
	}
	return g.WaitFor(ctx, fmt.Sprintf("the device in bay %d", bay), func(ctx context.Context) (bool, error) {
		found, err := g.Glob(ctx, last)
		return len(found) > 0, err
	})
}

// bootTries is how often a guest is booted whose boot fails by a fault of the
// emulator.
const bootTries = 3

// boot boots the guest for the first time. Nothing of the product is in it yet, so
// a boot that fails by a fault of the emulator may be tried again.
func (g *Guest) boot(ctx context.Context) error {
	for try := 1; ; try++ {
		if g.cfg.System != nil {
			if err := g.makeRoot(ctx); err != nil {
				return err
			}
		}
		err := g.bootOnce(ctx)
		if err == nil {
			return nil
		}
		fault := g.emulatorFault()
		if fault == "" || try == bootTries || ctx.Err() != nil {
			return err
		}
		g.Account(Entry{What: EmulatorFault, Fault: fault})
		warn("%s, at a boot of kernel %s: %s; try %d of %d", EmulatorFault, g.cfg.Kernel, fault, try+1, bootTries)
		g.hangUp()
		if err := os.Rename(filepath.Join(g.dir, consoleFile), filepath.Join(g.dir, fmt.Sprintf("%s.%d", consoleFile, try))); err != nil {
			return err
		}
	}
}

// bootOnce boots the guest, with these words on the kernel's command line besides
// those that it always has, and waits for the agent.
func (g *Guest) bootOnce(ctx context.Context, words ...string) error {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.bootDeadline())
	defer cancel()
	if g.cfg.System != nil {
		if err := g.loadFromRoot(ctx); err != nil {
			return err
		}
	}
	if err := g.launch(ctx, nil, words); err != nil {
		return err
	}
	if err := g.awaitAgent(ctx); err != nil {
		return fmt.Errorf("boot kernel %s: %w; the end of the console:\n%s", g.cfg.Kernel, err, tail(filepath.Join(g.dir, consoleFile)))
	}
	if g.cfg.System == nil {
		return nil
	}
	return g.settle(ctx)
}

// launch starts QEMU, with more arguments than the machine's, and connects to
// its monitor.
func (g *Guest) launch(ctx context.Context, more, words []string) error {
	image, initrd, err := g.bootFiles()
	if err != nil {
		return err
	}
	q, err := launch(g.dir, func(w wiring) ([]string, error) {
		args, err := g.arguments(image, initrd, w, append(words, g.cfg.testWords()))
		return append(args, more...), err
	})
	if err != nil {
		return err
	}
	g.qemu = q
	g.QMP, err = qmp.New(ctx, g.qemu.qmp)
	if err != nil {
		return fmt.Errorf("%w: %s", err, tail(filepath.Join(g.dir, qemuFile)))
	}
	return nil
}

// writeReproduce leaves a script that boots the same machine for a person, with
// what is in its bays now.
func (g *Guest) writeReproduce() error {
	image, initrd, err := g.bootFiles()
	if err != nil {
		return err
	}
	shell := "vmtest.shell"
	if g.cfg.System != nil {
		shell = ""
	}
	args, err := g.arguments(image, initrd, wiring{console: "stdio,mux=on,signal=off", agent: "null", qmp: "null"}, []string{shell})
	if err != nil {
		return err
	}
	return writeReproduce(g.dir, args)
}

// arguments gives QEMU's arguments for the guest, with what is in its bays.
func (g *Guest) arguments(image, initrd string, w wiring, words []string) ([]string, error) {
	args, err := g.cfg.machine(image, initrd, w, strings.Join(words, " "))
	if err != nil {
		return nil, err
	}
	cold, err := g.coldPlug()
	return append(args, cold...), err
}

// bootFiles gives the kernel and the initramfs to boot; those of a System are in the
// guest's directory.
func (g *Guest) bootFiles() (image, initrd string, err error) {
	cacheDir, err := cache.Dir()
	if err != nil {
		return "", "", err
	}
	k := g.cfg.Kernel
	if g.cfg.System != nil {
		k.Image, initrd = filepath.Join(g.dir, kernelFile), initrdFile
	} else if initrd, err = g.cfg.initrd(cacheDir); err != nil {
		return "", "", err
	}
	image, err = k.Unpacked(cacheDir)
	if err != nil {
		g.log.note("boot the packed kernel: %v", err)
		return k.Image, initrd, nil
	}
	return image, initrd, nil
}

// coldPlug gives QEMU's arguments for what is in the bays.
func (g *Guest) coldPlug() ([]string, error) {
	var args []string
	if g.cfg.System != nil {
		root, err := g.cfg.rootDrive()
		if err != nil {
			return nil, err
		}
		args = root
	}
	for _, bay := range slices.Sorted(maps.Keys(g.plugged)) {
		for _, f := range g.plugged[bay].functions() {
			more, err := coldPlug(f.device.deviceAdd(f.id, bay, f.disk), f.disk)
			if err != nil {
				return nil, err
			}
			args = append(args, more...)
		}
	}
	return args, nil
}

// awaitAgent waits until the agent of a guest that boots is ready.
func (g *Guest) awaitAgent(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { g.qemu.agent.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	lines := bufio.NewReader(g.qemu.agent)
	for {
		line, err := lines.ReadString('\n')
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			select { // a moment after it has closed the port
			case <-g.qemu.exited:
			case <-ctx.Done():
			}
			return fmt.Errorf("the guest died: %w", err)
		}
		if strings.TrimSpace(line) == wire.Ready {
			break
		}
	}
	g.agent = jsonrpc.NewClient(stream{lines, g.qemu.agent})
	return nil
}

type stream struct {
	io.Reader
	io.WriteCloser
}

// Config is what the guest was started with.
func (g *Guest) Config() Config { return g.cfg }

// Dir is the host's directory with the guest's console and logs.
func (g *Guest) Dir() string { return g.dir }

// how says how the guest was started.
func (g *Guest) how() string {
	switch {
	case g.restored:
		return Restored
	case g.saved:
		return Saved
	}
	return Booted
}

// StartTime is how long it took until the guest answered, and how it was started:
// Booted or Restored.
func (g *Guest) StartTime() (took time.Duration, how string) { return g.startTime, g.how() }

// Console gives what the kernel wrote so far.
func (g *Guest) Console() (string, error) {
	text, err := os.ReadFile(filepath.Join(g.dir, consoleFile))
	return string(text), err
}

// Close switches the guest off, as by its mains cable. A second call does
// nothing.
func (g *Guest) Close() error {
	g.closing.Do(func() { g.closed = g.switchOff() })
	return g.closed
}

func (g *Guest) switchOff() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if g.QMP != nil && g.QMP.Execute(ctx, "quit", nil, nil) == nil {
		select {
		case <-g.qemu.exited:
		case <-ctx.Done():
		}
	}
	g.hangUp()
	return g.log.Close()
}

// hangUp ends QEMU, if it has not ended, and closes what led to it.
func (g *Guest) hangUp() {
	if g.qemu == nil {
		return
	}
	g.qemu.kill()
	if g.agent != nil {
		g.agent.Close()
	}
	g.qemu.agent.Close()
	g.qemu.qmp.Close()
}

// call asks the agent.
func (g *Guest) call(ctx context.Context, method string, args, reply any) error {
	if g.agent == nil {
		return fmt.Errorf("guest: %s: it has never answered", method)
	}
	began := time.Now()
	call := g.agent.Go(wire.Service+"."+method, args, reply, make(chan *rpc.Call, 1))
	var err error
	select {
	case <-call.Done:
		err = call.Error
	case <-g.qemu.exited:
		err = g.death()
	case <-ctx.Done():
		err = ctx.Err()
	}
	if _, answered := err.(rpc.ServerError); err != nil && !answered && ctx.Err() == nil {
		// The connection is lost, a moment before QEMU ends.
		select {
		case <-g.qemu.exited:
			err = g.death()
		case <-ctx.Done():
		}
	}
	if err != nil {
		err = fmt.Errorf("guest: %s %s: %w", method, brief(args), err)
		g.log.record(began, method, args, err.Error())
		return err
	}
	g.log.record(began, method, args, reply)
	return nil
}

// death says how a guest ended that was not switched off: by a panic of its
// kernel, after which QEMU exits, or by a crash of QEMU itself.
func (g *Guest) death() error {
	end := "the guest died"
	if g.qemu.crashed() {
		end = fmt.Sprintf("QEMU itself died (%s)", g.qemu.end)
	}
	said := tail(filepath.Join(g.dir, qemuFile))
	if said != "" {
		said = "; QEMU said:\n" + said
	}
	return fmt.Errorf("%s%s; the end of its console:\n%s", end, said, lastWords(filepath.Join(g.dir, consoleFile)))
}
