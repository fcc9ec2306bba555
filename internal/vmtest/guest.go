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
	"syscall"
	"time"

	"vfio-hotplug/internal/vmtest/cache"
	"vfio-hotplug/internal/vmtest/qmp"
	"vfio-hotplug/internal/vmtest/wire"
)

// A Guest is a running machine. Its methods may be called by several
// goroutines at once; each ends early when its context does.
type Guest struct {
	QMP *qmp.Conn // QEMU's monitor

	cfg      Config
	dir      string
	qemu     *qemu
	agent    *rpc.Client
	log      *transcript
	bootTime time.Duration
	closing  sync.Once
	closed   error // the result of closing

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

// Start boots a guest in the empty directory dir, which takes its console,
// logs and images. It returns when the agent answers and Config.Modules are
// loaded; the error has the end of the console.
func Start(ctx context.Context, cfg Config, dir string) (*Guest, error) {
	began := time.Now()
	log, err := newTranscript(filepath.Join(dir, "agent.log"))
	if err != nil {
		return nil, err
	}
	g := &Guest{cfg: cfg, dir: dir, log: log, plugged: map[int]plugged{}}
	if err := errors.Join(g.furnish(ctx), g.fill()); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	if err := g.launch(ctx); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	if err := g.greet(ctx); err != nil {
		return nil, errors.Join(g.bootFailure(err), g.Close())
	}
	g.bootTime = time.Since(began)
	for _, module := range cfg.Modules {
		name, params, _ := strings.Cut(module, " ")
		if err := g.LoadModule(ctx, name, params); err != nil {
			return nil, errors.Join(err, g.Close())
		}
	}
	return g, nil
}

func (g *Guest) bootFailure(err error) error {
	return fmt.Errorf("boot kernel %s: %w; the end of the console:\n%s", g.cfg.Kernel, err, tail(filepath.Join(g.dir, consoleFile)))
}

// furnish makes what the guest boots from.
func (g *Guest) furnish(ctx context.Context) error {
	if g.cfg.System != nil {
		return g.makeRoot(ctx)
	}
	cacheDir, err := cache.Dir()
	if err != nil {
		return err
	}
	return g.cfg.writeInitrd(filepath.Join(g.dir, initrdFile), cacheDir)
}

// fill prepares the devices that are there from the start.
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

// launch switches the guest on, with these words on the kernel's command line
// besides those that it always has.
func (g *Guest) launch(ctx context.Context, words ...string) error {
	image, err := g.bootImage(ctx)
	if err != nil {
		return err
	}
	cold, err := g.coldPlug()
	if err != nil {
		return err
	}
	args := func(w wiring, extra string) ([]string, error) {
		all, err := g.cfg.machine(image, initrdFile, w, strings.Join(append(words, extra), " "))
		return append(all, cold...), err
	}
	forTest, forPerson := "", "vmtest.shell"
	if g.cfg.System != nil {
		forTest, forPerson = noLogin, ""
	}
	manual, err := args(wiring{console: "stdio,mux=on,signal=off", agent: "null", qmp: "null"}, forPerson)
	if err != nil {
		return err
	}
	if err := writeReproduce(g.dir, manual); err != nil {
		return err
	}
	q, err := launch(g.dir, func(w wiring) ([]string, error) { return args(w, forTest) })
	if err != nil {
		return err
	}
	g.qemu = q
	return nil
}

// bootImage gives the kernel to boot; its initramfs is in initrdFile.
func (g *Guest) bootImage(ctx context.Context) (string, error) {
	k := g.cfg.Kernel
	if g.cfg.System != nil {
		if err := g.loadFromRoot(ctx); err != nil {
			return "", err
		}
		k.Image = filepath.Join(g.dir, kernelFile)
	}
	cacheDir, err := cache.Dir()
	if err != nil {
		return "", err
	}
	image, err := k.Unpacked(cacheDir)
	if err != nil {
		g.log.note("boot the packed kernel: %v", err)
		return k.Image, nil
	}
	return image, nil
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

// greet connects to the monitor and waits for the agent, and in a package guest
// until all is started.
func (g *Guest) greet(ctx context.Context) error {
	if err := g.connect(ctx); err != nil || g.cfg.System == nil {
		return err
	}
	return g.settle(ctx)
}

func (g *Guest) connect(ctx context.Context) error {
	var err error
	g.QMP, err = qmp.New(ctx, g.qemu.qmp)
	if err != nil {
		return fmt.Errorf("%w: %s", err, tail(filepath.Join(g.dir, qemuFile)))
	}
	stop := context.AfterFunc(ctx, func() { g.qemu.agent.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	lines := bufio.NewReader(g.qemu.agent)
	for {
		line, err := lines.ReadString('\n')
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
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

// Config is what the guest was booted with.
func (g *Guest) Config() Config { return g.cfg }

// Dir is the host's directory with the guest's console and logs.
func (g *Guest) Dir() string { return g.dir }

// BootTime is how long it took from the start of QEMU to the first answer.
func (g *Guest) BootTime() time.Duration { return g.bootTime }

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
	g.qemu.kill()
	g.hangUp()
	return g.log.Close()
}

// hangUp closes what led to a QEMU that has ended.
func (g *Guest) hangUp() {
	if g.agent != nil {
		g.agent.Close()
	}
	g.qemu.agent.Close()
	g.qemu.qmp.Close()
}

// call asks the agent.
func (g *Guest) call(ctx context.Context, method string, args, reply any) error {
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
	if status, ok := g.qemu.end.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		end = fmt.Sprintf("QEMU itself died (%s)", g.qemu.end)
	}
	said := tail(filepath.Join(g.dir, qemuFile))
	if said != "" {
		said = "; QEMU said:\n" + said
	}
	return fmt.Errorf("%s%s; the end of its console:\n%s", end, said, lastWords(filepath.Join(g.dir, consoleFile)))
}
