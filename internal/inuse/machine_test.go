package inuse

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
)

// The test binary is also the blkid of these tests. It does what the disk that
// it is given says: the first line is its exit code and its complaint, the rest
// its output.
const blkidVariable = "INUSE_TEST_BLKID"

func TestMain(m *testing.M) {
	if place := os.Getenv(mounterVariable); place != "" {
		os.Exit(runMounter(place))
	}
	if os.Getenv(blkidVariable) == "" {
		os.Exit(m.Run())
	}
	os.Exit(runBlkid(os.Args[1:]))
}

func runBlkid(args []string) int {
	if got := strings.Join(args, " "); got != "-p -o udev /proc/self/fd/3" {
		fmt.Fprintf(os.Stderr, "called with %q", got)
		return 4
	}
	content, err := os.ReadFile(args[3])
	if err != nil {
		fmt.Fprint(os.Stderr, err)
		return 4
	}
	first, output, _ := strings.Cut(strings.TrimRight(string(content), "\x00"), "\n")
	if first == "hang" {
		select {}
	}
	var code int
	fmt.Sscan(first, &code)
	_, complaint, _ := strings.Cut(first, " ")
	io.WriteString(os.Stderr, complaint)
	io.WriteString(os.Stdout, output)
	return code
}

// The device under test, and the place of its directory.
var drive = pci.Address{Bus: 1}

const home = "devices/pci0000:00/0000:01:00.0"

// machine is a made-up machine: trees in the shape of /sys, /proc and /dev.
type machine struct {
	t     *testing.T
	dir   string
	nodes *madeNodes
	minor uint32
}

// newMachine has an NVMe drive without namespaces, on nvme.
func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{t: t, dir: t.TempDir(), nodes: &madeNodes{numbers: map[string]number{}, character: map[string]bool{}, faults: map[string]error{}, active: map[string][]uint32{}, backings: map[string]number{}, exclusive: map[*os.File]bool{}}}
	m.mkdir("sys/" + home)
	m.linkTo("bus/pci/devices/"+drive.String(), home)
	m.mkdir("sys/class/block")
	m.mkdir("dev")
	m.link("proc/1/root", m.dir)
	m.file("proc/1/mountinfo", "21 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n")
	m.file("proc/swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n")
	m.file("proc/cmdline", "root=/dev/vda1 ro\n")
	m.controller("nvme0")
	return m
}

// passable lets everybody reach what is below the machine's directory.
func (m *machine) passable() {
	m.t.Helper()
	must(m.t, os.Chmod(m.dir, 0o755))
	must(m.t, os.Chmod(filepath.Dir(m.dir), 0o755))
}

func (m *machine) path(name string) string { return filepath.Join(m.dir, name) }

func (m *machine) mkdir(name string) {
	m.t.Helper()
	must(m.t, os.MkdirAll(m.path(name), 0o755))
}

func (m *machine) file(name, content string) {
	m.t.Helper()
	m.mkdir(filepath.Dir(name))
	must(m.t, os.WriteFile(m.path(name), []byte(content), 0o644))
}

func (m *machine) add(name, content string) {
	m.t.Helper()
	old, err := os.ReadFile(m.path(name))
	must(m.t, err)
	m.file(name, string(old)+content)
}

func (m *machine) link(name, target string) {
	m.t.Helper()
	m.mkdir(filepath.Dir(name))
	if old, err := os.Readlink(m.path(name)); err == nil && old == target {
		return
	}
	must(m.t, os.Symlink(target, m.path(name)))
}

// linkTo makes a link below sys that leads to a place below sys.
func (m *machine) linkTo(name, target string) { m.link("sys/"+name, m.path("sys/"+target)) }

func (m *machine) remove(name string) { must(m.t, os.RemoveAll(m.path(name))) }

func (m *machine) controller(name string) {
	m.t.Helper()
	dir := "sys/" + home + "/nvme/" + name
	m.file(dir+"/state", "live\n")
	m.file(dir+"/dev", "240:0\n")
	m.nodes.numbers[m.path("dev/"+name)] = number{240, 0}
	m.nodes.character[m.path("dev/"+name)] = true
	m.nodes.active[m.path("dev/"+name)] = nil
}

// blank is the content of a disk on which blkid finds nothing.
const blank = "2"

// namespace gives nvme0 an active namespace with a block device.
func (m *machine) namespace(id int, content string) (name string) {
	m.t.Helper()
	name = fmt.Sprintf("nvme0n%d", id)
	m.active(uint32(id))
	m.block(home+"/nvme/nvme0/"+name, content)
	m.file("sys/"+home+"/nvme/nvme0/"+name+"/nsid", fmt.Sprintln(id))
	return name
}

func (m *machine) active(id uint32) {
	controller := m.path("dev/nvme0")
	m.nodes.active[controller] = append(m.nodes.active[controller], id)
}

const diskBytes = 8 << 20

// block makes a block device at a place in sysfs, with its node.
func (m *machine) block(where, content string) {
	m.t.Helper()
	name := filepath.Base(where)
	m.minor++
	m.file("sys/"+where+"/dev", fmt.Sprintf("259:%d\n", m.minor))
	m.file("sys/"+where+"/size", fmt.Sprintln(diskBytes/512))
	m.file("sys/"+where+"/hidden", "0\n")
	m.mkdir("sys/" + where + "/holders")
	m.linkTo(where+"/subsystem", "class/block")
	m.linkTo("class/block/"+name, where)
	node := m.path("dev/" + name)
	m.file("dev/"+name, content+"\n")
	must(m.t, os.Truncate(node, diskBytes))
	m.nodes.numbers[node] = number{259, m.minor}
}

// partition makes a partition of a namespace.
func (m *machine) partition(disk string, n int) (name string) {
	m.t.Helper()
	name = fmt.Sprintf("%sp%d", disk, n)
	real, err := filepath.EvalSymlinks(m.path("sys/class/block/" + disk))
	must(m.t, err)
	where, err := filepath.Rel(m.path("sys"), real)
	must(m.t, err)
	m.block(where+"/"+name, blank)
	m.file("sys/"+where+"/"+name+"/partition", fmt.Sprintln(n))
	return name
}

// built makes a block device that is built on others.
func (m *machine) built(name, given string, on ...string) {
	m.t.Helper()
	m.block("devices/virtual/block/"+name, blank)
	if given != "" {
		m.file("sys/devices/virtual/block/"+name+"/dm/name", given+"\n")
	}
	for _, below := range on {
		m.linkTo("class/block/"+below+"/holders/"+name, "devices/virtual/block/"+name)
	}
}

// mount adds a line to the table of mounts.
func (m *machine) mount(block, point string) {
	m.t.Helper()
	n := m.nodes.numbers[m.path("dev/"+block)]
	m.add("proc/1/mountinfo", fmt.Sprintf("99 21 %s /sub %s rw shared:1 master:2 - ext4 /dev/%s rw\n", n, point, block))
}

// holds makes a process that holds nodes open.
func (m *machine) holds(pid int, command string, nodes ...string) {
	m.t.Helper()
	m.process(pid, command, 1)
	for i, node := range nodes {
		m.link(fmt.Sprintf("proc/%d/fd/%d", pid, 7+i), node)
	}
}

func (m *machine) process(pid int, command string, parent int) {
	m.t.Helper()
	m.file(fmt.Sprintf("proc/%d/comm", pid), command+"\n")
	m.file(fmt.Sprintf("proc/%d/stat", pid), fmt.Sprintf("%d (%s) S %d 7 7 0 -1\n", pid, command, parent))
	m.file(fmt.Sprintf("proc/%d/status", pid), "Name:\ta\nFDSize:\t64\n")
}

// finder looks at the machine, and at the device.
func (m *machine) finder() (*Finder, *sysfs.Device) {
	m.t.Helper()
	m.t.Setenv(blkidVariable, "1")
	root, err := sysfs.OpenRoot(m.path("sys"))
	must(m.t, err)
	device, err := sysfs.New(root, nil).Open(drive)
	must(m.t, err)
	m.t.Cleanup(func() {
		device.Close()
		root.Close()
	})
	f := New(root, m.dir)
	f.nodes, f.blkid = m.nodes, os.Args[0]
	return f, device
}

// look looks at the device as one on a driver.
func (m *machine) look(driver string, class pci.Class, how How) (Report, *Hold, error) {
	m.t.Helper()
	f, device := m.finder()
	return f.Look(context.Background(), device, pci.Device{Address: drive, Driver: driver, Class: class}, how)
}

// madeNodes are regular files that stand for nodes. The numbers are those of
// the nodes, which the files do not have.
type madeNodes struct {
	numbers   map[string]number
	character map[string]bool
	faults    map[string]error // of an open, or of a look at a descriptor
	active    map[string][]uint32
	backings  map[string]number // of loop devices, by their node
	opened    []*os.File
	exclusive map[*os.File]bool // which of them are claims
	claimed   string            // a node that somebody has claimed
	tries     int               // to claim a node
	onClaim   func()            // called before the first of them
	onAsk     func(descriptor string)
	located   []string     // paths that were followed
	asked     atomic.Int64 // how many descriptors and mappings were followed
	block     chan struct{}
}

func (n *madeNodes) open(path string, want number, exclusive bool) (*os.File, error) {
	if n.block != nil {
		<-n.block
	}
	if exclusive {
		if n.tries++; n.tries == 1 && n.onClaim != nil {
			n.onClaim()
		}
	}
	err := n.faults[path]
	if err == nil && path == n.claimed {
		err = syscall.EBUSY
	}
	if err != nil && (exclusive || err != syscall.EBUSY) { // which only a claim is
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	if _, err := os.Stat(path); err == nil && n.numbers[path] != want {
		return nil, &fs.PathError{Op: "open", Path: path, Err: errStale}
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	n.opened = append(n.opened, file)
	n.exclusive[file] = exclusive
	return file, nil
}

func (n *madeNodes) device(top, path string) (device, error) {
	n.located = append(n.located, path)
	top, err := filepath.EvalSymlinks(top)
	if err != nil {
		return device{}, err
	}
	path = filepath.Join(top, path)
	if err := n.faults[path]; err != nil {
		return device{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if at, ok := n.numbers[path]; ok {
		return device{n.character[path], at}, nil
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return device{}, &fs.PathError{Op: "stat", Path: path, Err: fs.ErrNotExist}
	}
	at, ok := n.numbers[real]
	if !ok {
		return device{}, &fs.PathError{Op: "stat", Path: path, Err: errNoNode}
	}
	return device{n.character[real], at}, nil
}

func (n *madeNodes) backing(path string, want number) (number, error) {
	if err := n.faults[path]; err != nil {
		return number{}, &fs.PathError{Op: "ask", Path: path, Err: err}
	}
	switch at, ok := n.numbers[path]; {
	case !ok:
		return number{}, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	case at != want:
		return number{}, &fs.PathError{Op: "open", Path: path, Err: errStale}
	}
	return n.backings[path], nil
}

func (n *madeNodes) behind(descriptor string) (device, bool, error) {
	n.asked.Add(1)
	if n.onAsk != nil {
		n.onAsk(descriptor)
	}
	if err := n.faults[descriptor]; err != nil {
		return device{}, false, &fs.PathError{Op: "stat", Path: descriptor, Err: err}
	}
	path, err := os.Readlink(descriptor)
	if err != nil {
		return device{}, false, err
	}
	at, ok := n.numbers[path]
	return device{n.character[path], at}, ok, nil
}

func (n *madeNodes) namespaces(path string, want number) ([]uint32, error) {
	if err := n.faults[path]; err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	if n.numbers[path] != want {
		return nil, &fs.PathError{Op: "open", Path: path, Err: errStale}
	}
	return n.active[path], nil
}

// allClosed reports whether every file that was opened is closed again.
func (n *madeNodes) allClosed() bool {
	for _, file := range n.opened {
		if _, err := file.Stat(); err == nil {
			return false
		}
	}
	return true
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The two ways in which a takeover looks.
var (
	forBlank = How{Blank: true, Exclusive: true}
	forIdle  = How{Exclusive: true}
)
