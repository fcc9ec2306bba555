package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/vmtest/wire"
)

// Run runs a program to its end.
func (a *Agent) Run(ask wire.Command, reply *wire.Finished) error {
	ctx, cancel := context.Background(), context.CancelFunc(func() {})
	if ask.Timeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, ask.Timeout)
	}
	defer cancel()
	var stdout, stderr guarded
	cmd := exec.CommandContext(ctx, ask.Argv[0], ask.Argv[1:]...)
	cmd.Env = append(os.Environ(), ask.Env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(ask.Stdin), &stdout, &stderr
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan wire.Finished, 1)
	go func() { ended <- finished(cmd) }()
	select {
	case *reply = <-ended:
	case <-ctx.Done():
		select {
		case *reply = <-ended:
		case <-time.After(5 * time.Second): // it was killed when the time was over
			*reply = wire.Finished{Code: -1, Stuck: true}
		}
		reply.TimedOut = true
	}
	reply.Stdout, reply.Stderr = stdout.bytes(), stderr.bytes()
	return nil
}

// guarded is a buffer that may be read while a program still writes to it.
type guarded struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (g *guarded) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.buf.Write(p)
}

func (g *guarded) bytes() []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	return bytes.Clone(g.buf.Bytes())
}

// finished waits for a program that was started.
func finished(cmd *exec.Cmd) wire.Finished {
	err := cmd.Wait()
	if cmd.ProcessState == nil {
		return wire.Finished{Code: -1, Signal: err.Error()}
	}
	f := wire.Finished{Code: cmd.ProcessState.ExitCode()}
	if status, ok := cmd.ProcessState.Sys().(interface{ Signal() unix.Signal }); ok && f.Code < 0 {
		f.Signal = status.Signal().String()
	}
	return f
}

// processes are the programs in the background; their numbers begin at 1.
type processes struct {
	mu  sync.Mutex
	all []*process
}

type process struct {
	journal[wire.Line]
	cmd   *exec.Cmd
	ended chan struct{}
	how   wire.Finished // once ended is closed
}

func (p *processes) add(fresh *process) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, fresh)
	return len(p.all)
}

func (p *processes) get(number int) (*process, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if number < 1 || number > len(p.all) {
		return nil, fmt.Errorf("no process number %d was started", number)
	}
	return p.all[number-1], nil
}

// Start starts a program in the background and keeps every line it writes.
func (a *Agent) Start(ask wire.Background, reply *wire.Started) error {
	p := &process{cmd: exec.Command(ask.Argv[0], ask.Argv[1:]...), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), ask.Env...)
	stop := func() {}
	if ask.Notify {
		address, end, err := p.listenNotify()
		if err != nil {
			return err
		}
		p.cmd.Env = append(p.cmd.Env, "NOTIFY_SOCKET="+address)
		stop = end
	}
	reading, err := p.start()
	if err != nil {
		stop()
		return err
	}
	go func() {
		p.how = finished(p.cmd)
		close(p.ended)
		stop()
		// A child that outlives it may hold its outputs open for ever.
		select {
		case <-reading:
		case <-time.After(time.Second):
		}
		p.close()
	}()
	*reply = wire.Started{Process: a.processes.add(p), PID: p.cmd.Process.Pid}
	return nil
}

// start starts the program; the channel is closed when both outputs have ended.
func (p *process) start() (<-chan struct{}, error) {
	outRead, outWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	errRead, errWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.cmd.Stdout, p.cmd.Stderr = outWrite, errWrite
	err = p.cmd.Start()
	outWrite.Close()
	errWrite.Close()
	var reading sync.WaitGroup
	reading.Go(func() { p.keep("stdout", outRead) })
	reading.Go(func() { p.keep("stderr", errRead) })
	ended := make(chan struct{})
	go func() { reading.Wait(); close(ended) }()
	return ended, err
}

func (p *process) keep(stream string, from io.ReadCloser) {
	defer from.Close()
	lines := bufio.NewReader(from)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			p.add(wire.Line{Stream: stream, Time: monotonic(), Text: strings.TrimSuffix(line, "\n")})
		}
		if err != nil {
			return
		}
	}
}

// listenNotify makes the socket that sd_notify(3) sends to; each line of a
// message becomes a line of the stream "notify".
func (p *process) listenNotify() (address string, stop func(), err error) {
	dir, err := os.MkdirTemp("", "notify-")
	if err != nil {
		return "", nil, err
	}
	address = dir + "/socket"
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		return "", nil, err
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		p.keepNotify(conn)
	}()
	stop = func() {
		// What was sent before the end is in the socket already.
		conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		<-over
		conn.Close()
		os.RemoveAll(dir)
	}
	return address, stop, nil
}

func (p *process) keepNotify(conn *net.UnixConn) {
	buf := make([]byte, 4096)
	for {
		n, _, err := conn.ReadFromUnix(buf)
		if err != nil {
			return
		}
		for line := range strings.Lines(string(buf[:n])) {
			p.add(wire.Line{Stream: "notify", Time: monotonic(), Text: strings.TrimSuffix(line, "\n")})
		}
	}
}

// Lines gives what a program in the background wrote, and waits for more.
func (a *Agent) Lines(ask wire.Lines, reply *wire.LinesReply) error {
	p, err := a.processes.get(ask.Process)
	if err != nil {
		return err
	}
	match, err := regexp.Compile(ask.Match)
	if err != nil {
		return err
	}
	p.scan(ask.Since, ask.Timeout, func(line wire.Line) bool {
		reply.Lines = append(reply.Lines, line)
		reply.Found = match.MatchString(line.Text)
		return reply.Found
	})
	select {
	case <-p.ended:
		reply.Ended = &p.how
	default:
	}
	return nil
}

// Kill sends a signal to a program in the background.
func (a *Agent) Kill(ask wire.Kill, reply *wire.Outcome) error {
	p, err := a.processes.get(ask.Process)
	if err != nil {
		return err
	}
	*reply = outcome(p.cmd.Process.Signal(ask.Signal))
	return nil
}

// Wait waits for the end of a program in the background.
func (a *Agent) Wait(ask wire.Wait, reply *wire.Finished) error {
	p, err := a.processes.get(ask.Process)
	if err != nil {
		return err
	}
	select {
	case <-p.ended:
		*reply = p.how
	case <-time.After(ask.Timeout):
		*reply = wire.Finished{Code: -1, TimedOut: true}
	}
	return nil
}
