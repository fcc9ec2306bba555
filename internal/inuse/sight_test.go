package inuse

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"vfio-hotplug/internal/pci"
)

var update = flag.Bool("update", false, "write the table of uses into the manual page")

// sight is a use of a device, and who can see it.
type sight struct {
	use    string   // as the manual names it
	by     []string // the methods of a look that find it
	kind   Kind     // "" for a signature
	driver string   // "" is nvme, of a drive with one namespace
	class  pci.Class
	make   func(*machine)
	hidden []string // what a sandbox's own sysfs does not list
	claim  bool     // only a claim shows it, and explain claims nothing
	last   bool     // the daemon's last look shows it, right before the device is taken
	unseen bool     // nobody can tell, and the report says so

	doubt string // when nobody can tell, as the manual says it
	blind func(*machine)
	lost  []string // then, what no view of sysfs lists
}

const hbaDisk = home + "/host0/target0:0:0/0:0:0:0/block/sda"

var sights = []sight{
	{use: "mounted file system", by: []string{"addMounts", "addMount", "blockUses"}, kind: Mount,
		make:  func(m *machine) { m.mount("nvme0n1", "/srv") },
		doubt: "the mounts of process 1 cannot be read, or a line of them not be understood",
		blind: func(m *machine) { m.remove("proc/1/mountinfo"); m.mkdir("proc/1/mountinfo") }},
	{use: "drive of a mounted btrfs", by: []string{"addBtrfs", "blockUses"}, kind: Mount,
		make: func(m *machine) {
			m.other("sdz")
			m.add("proc/1/mountinfo", "98 21 0:40 / /pool rw - btrfs /dev/sdz rw\n")
			m.linkTo("fs/btrfs/0123/devices/sdz", "class/block/sdz")
			m.linkTo("fs/btrfs/0123/devices/nvme0n1", home+"/nvme/nvme0/nvme0n1")
		},
		doubt: "its devices cannot be read",
		blind: func(m *machine) {
			m.remove("sys/fs/btrfs/0123/devices/nvme0n1")
			m.file("sys/class/block/sdz/dev", "?\n")
		}},
	{use: "swap", by: []string{"addSwaps", "addSwap", "blockUses"}, kind: Swap,
		make:  func(m *machine) { m.add("proc/swaps", "/dev/nvme0n1 partition 8 0 -2\n") },
		doubt: "the table of swaps cannot be read, or a line of it not be understood, or a name in it has gone",
		blind: func(m *machine) { m.file("proc/swaps", "Filename\tType\n/dev/nvme0n1 disk 8 0 -2\n") }},
	{use: "volume, array or the like", by: []string{"builtOn"}, kind: Holder,
		make:  func(m *machine) { m.built("dm-3", "vg-data", "nvme0n1") },
		doubt: "its directory in sysfs cannot be read",
		blind: func(m *machine) { m.file("sys/class/block/dm-3/dev", "?\n") }},
	{use: "loop device", by: []string{"addLoops", "builtOn"}, kind: Holder,
		make:  func(m *machine) { m.loop("loop0", "/dev/nvme0n1", "nvme0n1") },
		doubt: "the loop device may not be asked",
		blind: func(m *machine) { m.nodes.faults[m.path("dev/loop0")] = syscall.EACCES }},
	{use: "claim that nothing else shows", by: []string{"claimed"}, kind: Claim, claim: true,
		make:  func(m *machine) { m.nodes.claimed = m.path("dev/nvme0n1") },
		doubt: "the node may not be opened",
		blind: func(m *machine) { m.nodes.faults[m.path("dev/nvme0n1")] = syscall.EACCES }},
	{use: "program that has a node open", by: []string{"addDescriptors", "openUses"}, kind: Open,
		make:  func(m *machine) { m.holds(123, "postgres", m.path("dev/nvme0n1")) },
		doubt: "a process may not be looked into, or only those of a container can be seen",
		blind: func(m *machine) { m.nodes.faults[m.path("proc/123/fd/7")] = syscall.EACCES }},
	{use: "program with a node open in one thread", by: []string{"addDescriptors", "openUses"}, kind: Open,
		make: func(m *machine) {
			m.holds(123, "postgres", m.path("dev/null"))
			m.link("proc/123/task/123/fd/7", m.path("dev/null"))
			m.link("proc/123/task/125/fd/3", m.path("dev/nvme0n1"))
			m.link("proc/123/task/125/status", m.path("proc/123/status"))
		},
		doubt: "a process may not be looked into",
		blind: func(m *machine) { m.nodes.faults[m.path("proc/123/task/125/fd/3")] = syscall.EACCES }},
	{use: "program that has a node mapped", by: []string{"addMappings", "openUses"}, kind: Open, last: true,
		make:  func(m *machine) { m.process(123, "postgres", 1); m.maps(123, m.path("dev/nvme0n1")) },
		doubt: "a process may not be looked into",
		blind: func(m *machine) {
			m.nodes.faults[m.path("proc/123/map_files/7f15a0000000-7f15a0001000")] = syscall.EPERM
		}},
	{use: "node of a driver that sysfs does not show", by: []string{"unlistedUses"}, kind: Open, driver: "nvidia", class: 0x030200,
		make: func(m *machine) {
			m.file("proc/devices", characterDevices)
			m.holds(123, "train", m.unlistedNode("nvidia0", 195, 0))
		},
		doubt: "the numbers of drivers cannot be read, or a process may not be looked into",
		blind: func(m *machine) { m.remove("proc/devices"); m.mkdir("proc/devices") }},
	{use: "memory of a CXL device", by: []string{"cxlDecoder", "cxlRegion"}, kind: Memory, driver: "cxl_pci", class: 0x050210,
		make:  func(m *machine) { m.cxl("0x40000000", "region0"); m.dax("region0", "kmem") },
		doubt: "no decoder of it is shown, or one cannot be read",
		blind: func(m *machine) { m.remove("sys/bus/cxl/devices/endpoint2") }},
	{use: "memory of virtio-mem", by: []string{"memory"}, kind: Memory, driver: "virtio-pci", class: 0x00ff00,
		make:  func(m *machine) { m.linkTo(home+"/virtio3/driver", "bus/virtio/drivers/virtio_mem") },
		doubt: "what is below the device is not all shown",
		lost:  []string{"virtio3"}},
	{use: "program with vfio or uio", by: []string{"userUses"}, kind: Open, driver: "vfio-pci", class: pci.NVMe,
		make: func(m *machine) {
			m.mkdir("sys/" + home + "/vfio-dev/vfio0")
			m.file("dev/vfio/devices/vfio0", "")
			m.holds(123, "qemu", m.path("dev/vfio/devices/vfio0"))
		},
		doubt: "none of its nodes is there, or a process may not be looked into",
		blind: func(m *machine) { m.remove("dev/vfio") }},
	{use: "export by the NVMe target", by: []string{"addExports", "addNVMeTarget", "addNVMe", "addExport", "nodeUses"}, kind: Export,
		make:   func(m *machine) { m.mkdir("sys/module/nvmet"); m.exported("/dev/nvme0n1", "1") },
		hidden: []string{"config"},
		doubt:  "nvmet is loaded and has no directory in configfs, or the name that was exported has gone",
		blind:  func(m *machine) { m.remove("sys/kernel/config") }},
	{use: "export by the SCSI target", by: []string{"addExports", "addSCSITarget", "addBackstore", "addExport", "nodeUses"}, kind: Export,
		make: func(m *machine) {
			m.mkdir("sys/module/target_core_mod")
			m.configure("target/core/iblock_0/disk1", "enable", "1", "udev_path", "/dev/nvme0n1", "info", "Major: 259 Minor: 1  CLAIMED: IBLOCK")
		},
		hidden: []string{"config"},
		doubt:  "target_core_mod is loaded and has no directory in configfs, or the name that was exported has gone",
		blind:  func(m *machine) { m.remove("sys/kernel/config") }},
	{use: "disk below a host adapter", by: []string{"blockUses"}, kind: Mount, driver: "mpt3sas", class: hba,
		make:  func(m *machine) { m.block(hbaDisk, blank); m.mount("sda", "/srv") },
		doubt: "the adapter shows no disk",
		blind: func(m *machine) { m.remove("sys/" + home + "/host0") }},
	{use: "network interface that is up", by: []string{"network"}, kind: Network, driver: "xhci_hcd", class: usb,
		make:   func(m *machine) { m.network("usb1/1-1/1-1:1.0/net/usb0", "0x1003") },
		hidden: []string{"usb0"},
		doubt:  "another network namespace has the interface, or a network card shows none",
		lost:   []string{"usb0"}},
	{use: "name in fstab and the like", by: []string{"named"}, kind: Named,
		make:  func(m *machine) { m.file("etc/fstab", "/dev/nvme0n1 /srv xfs noauto\n") },
		doubt: "one of these tables cannot be read, or a line of it not be understood; and while something that they name is missing, if the drive carries LVM, md, LUKS or a pool",
		blind: func(m *machine) { m.file("etc/fstab", "/dev/nvme0n1\n") }},
	{use: "another use of another device", kind: Open, driver: "snd_hda_intel", class: 0x040300, unseen: true,
		make:  func(m *machine) {},
		doubt: "takeover = blank"},
	{use: "signature, for takeover = blank", by: []string{"diskContents"},
		make:  func(m *machine) { m.carries("nvme0n1", ext) },
		doubt: "the drive cannot be read, or blkid finds more than one",
		blind: func(m *machine) {
			m.file("dev/nvme0n1", "8\n")
			must(m.t, os.Truncate(m.path("dev/nvme0n1"), diskBytes))
		}},
}

// look looks for the use in the daemon's sandbox, or from a shell, as explain does.
func (s sight) look(m *machine, sandbox bool, hidden []string) (Report, error) {
	driver, class := s.driver, s.class
	if driver == "" {
		driver, class = "nvme", pci.NVMe
	}
	how := How{Blank: s.kind == "", Exclusive: sandbox, Passive: sandbox && s.last, All: !sandbox}
	report, hold, err := m.lookFrom(sandbox, driver, class, how, hidden...)
	must(m.t, hold.Close())
	return report, err
}

// machine has the use.
func (s sight) machine(t *testing.T) *machine {
	m := newMachine(t)
	if s.driver == "" {
		m.namespace(1, blank)
	} else {
		m.remove("sys/" + home + "/nvme")
	}
	s.make(m)
	return m
}

// seen says what a report tells of the use.
func (s sight) seen(r Report, err error) string {
	switch {
	case r.has(func(u Use) bool { return u.Kind == s.kind }), s.kind == "" && len(r.Signatures) > 0:
		return "seen"
	case err != nil, len(r.Doubts) > 0:
		return "doubt"
	case len(r.Unchecked) > 0:
		return "not checked"
	}
	return "no"
}

// Each use is seen from the daemon's sandbox, and from a shell by explain, unless
// only a claim shows it; and the manual has the table of it.
func TestWhoCanSeeEachUse(t *testing.T) {
	table := `.Bl -column "node of a driver that sysfs does not show" "not checked" "not checked"` + "\n.It Em use Ta Em daemon Ta Em shell Ta Em a doubt where\n"
	for _, s := range sights {
		m := s.machine(t)
		daemon := s.seen(s.look(m, true, s.hidden))
		shell := s.seen(s.look(m, false, nil))
		switch {
		case s.unseen && daemon == "not checked" && shell == daemon:
			s.kind = "" // and not for takeover = blank
		case daemon != "seen", (shell == "seen") == s.claim:
			t.Errorf("%s: %s by the daemon, %s from a shell", s.use, daemon, shell)
		}
		if s.blind != nil {
			s.blind(m)
		}
		for _, sandbox := range []bool{true, false} {
			report, err := s.look(m, sandbox, s.lost)
			if sandbox && s.lost != nil || !sandbox && s.claim { // the view that counts is process 1's; explain claims nothing
				continue
			}
			if got := s.seen(report, err); got != "doubt" {
				t.Errorf("%s, where %s (sandbox %v): %s, report %q", s.use, s.doubt, sandbox, got, report)
			}
		}
		table += fmt.Sprintf(".It %s Ta %s Ta %s Ta %s\n", s.use, daemon, shell, s.doubt)
	}
	inManual(t, table+".El\n")
}

// inManual compares a table with the one between its marks in the manual, or
// writes it there.
func inManual(t *testing.T, table string) {
	t.Helper()
	const page = "../../packaging/man/vfio-hotplug.8"
	const begin, end = ".\\\" Begin of the uses: go test ./internal/inuse -run TestWhoCanSeeEachUse -update\n", ".\\\" End of the uses\n"
	text, err := os.ReadFile(page)
	must(t, err)
	before, rest, ok1 := bytes.Cut(text, []byte(begin))
	have, after, ok2 := bytes.Cut(rest, []byte(end))
	switch {
	case !ok1 || !ok2:
		t.Errorf("%s has no marks for the table", page)
	case string(have) == table:
	case *update:
		must(t, os.WriteFile(page, slices.Concat(before, []byte(begin+table+end), after), 0o644))
	default:
		t.Errorf("%s has another table (-update writes it):\n%s", page, table)
	}
}

// Who is not root sees less, and takes nothing for unused.
func TestOthersThanRootTakeNothingForUnused(t *testing.T) {
	for _, s := range sights {
		m := s.machine(t)
		m.remove("proc/1/root")
		m.remove("proc/1/mountinfo")
		if report, err := s.look(m, false, s.hidden); err == nil && !report.Veto() {
			t.Errorf("%s: report %q", s.use, report)
		}
	}
}

// A method that reports a use, or that reads who uses devices, stands beside the
// use that it finds.
func TestEachFinderIsInTheTable(t *testing.T) {
	var listed []string
	for _, s := range sights {
		listed = append(listed, s.by...)
	}
	files, err := filepath.Glob("*.go")
	must(t, err)
	var found []string
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		must(t, err)
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv != nil && finds(f) {
				found = append(found, f.Name.Name)
			}
		}
	}
	if len(found) < 10 {
		t.Fatalf("only %q found", found)
	}
	for _, name := range found {
		if !slices.Contains(listed, name) {
			t.Errorf("%s finds uses and is in no sight: say what it sees, and when it cannot", name)
		}
	}
	for _, name := range listed {
		if !slices.Contains(found, name) {
			t.Errorf("%s is in a sight and finds no use", name)
		}
	}
}

// finds reports whether a method adds to users, works on what programs have open, or
// adds to the uses of a report or to its signatures.
func finds(f *ast.FuncDecl) bool {
	if len(f.Type.Params.List) > 0 {
		of, ok := f.Type.Params.List[0].Type.(*ast.Ident)
		if ok && (of.Name == "opens" || of.Name == "users" && strings.HasPrefix(f.Name.Name, "add")) {
			return true
		}
	}
	found := false
	ast.Inspect(f.Body, func(n ast.Node) bool {
		s, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		of, ok := s.X.(*ast.SelectorExpr)
		found = found || ok && of.Sel.Name == "report" && (s.Sel.Name == "use" || s.Sel.Name == "Signatures")
		return true
	})
	return found
}
