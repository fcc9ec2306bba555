package vmtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/rpc"
	"net/rpc/jsonrpc"
	"os"
	"path/filepath"
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
	id   string
	disk *disk
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
	if err := g.launch(); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	if err := g.greet(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("boot kernel %s: %w; the end of the console:\n%s", cfg.Kernel, err, tail(filepath.Join(dir, consoleFile))), g.Close())
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

func (g *Guest) launch() error {
	cacheDir, err := cache.Dir()
	if err != nil {
		return err
	}
	if err := g.cfg.writeInitrd(filepath.Join(g.dir, initrdFile), cacheDir); err != nil {
		return err
	}
	image, err := g.cfg.Kernel.Unpacked(cacheDir)
	if err != nil {
		g.log.note("boot the packed kernel: %v", err)
		image = g.cfg.Kernel.Image
	}
	cold, err := g.coldPlug()
	if err != nil {
		return err
	}
	args := func(w wiring, extra string) ([]string, error) {
		all, err := g.cfg.machine(image, initrdFile, w, extra)
		return append(all, cold...), err
	}
	manual, err := args(wiring{console: "stdio,mux=on,signal=off", agent: "null", qmp: "null"}, "vmtest.shell")
	if err != nil {
		return err
	}
	if err := writeReproduce(g.dir, manual); err != nil {
		return err
	}
	g.qemu, err = launch(g.dir, func(w wiring) ([]string, error) { return args(w, "") })
	return err
}

// coldPlug prepares the devices that are there from the start.
func (g *Guest) coldPlug() ([]string, error) {
	var args []string
	for bay := range g.cfg.bays() {
		device, ok := g.cfg.Devices[bay]
		if !ok {
			continue
		}
		p, err := g.prepare(device)
		if err != nil {
			return nil, err
		}
		more, err := coldPlug(device.deviceAdd(p.id, bay, p.disk), p.disk)
		if err != nil {
			return nil, err
		}
		args = append(args, more...)
		g.plugged[bay] = p
	}
	return args, nil
}

// greet connects to the monitor and waits for the agent.
func (g *Guest) greet(ctx context.Context) error {
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
	if g.agent != nil {
		g.agent.Close()
	}
	g.qemu.agent.Close()
	g.qemu.qmp.Close()
	return g.log.Close()
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

func (g *Guest) death() error {
	return fmt.Errorf("the guest died; the end of its console:\n%s", lastWords(filepath.Join(g.dir, consoleFile)))
}
