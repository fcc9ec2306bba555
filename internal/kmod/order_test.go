package kmod

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// tree has what each module needs, as depmod writes it down.
var tree = map[string]string{
	"pci_stub":      "pci-stub.ko:",
	"vfio":          "vfio.ko:",
	"vfio_pci_core": "vfio-pci-core.ko: vfio.ko",
	"vfio_pci":      "vfio-pci.ko: vfio-pci-core.ko vfio.ko",
	"nvme_core":     "nvme-core.ko:",
	"nvme":          "nvme.ko: nvme-core.ko",
}

func TestThePackageLoadsPCIStubAndVFIOBeforeNVMe(t *testing.T) {
	var order []string
	for line := range strings.Lines(modprobe(t, "--show-depends", "nvme")) {
		order = append(order, strings.TrimSuffix(filepath.Base(strings.TrimSpace(line)), ".ko"))
	}
	nvme := slices.Index(order, "nvme")
	for _, first := range []string{"pci-stub", "vfio-pci"} {
		if at := slices.Index(order, first); at < 0 || at > nvme {
			t.Errorf("%s is not loaded before nvme: %q", first, order)
		}
	}
}

// Idle devices that somebody else has given to vfio-pci do not hold the module.
func TestUnloadingNVMeLeavesPCIStubAndVFIO(t *testing.T) {
	got := modprobe(t, "--remove", "--dry-run", "--verbose", "nvme")
	if got != "rmmod nvme\nrmmod nvme_core\n" && got != "rmmod nvme\n" { // kmod 28 leaves what nvme needed
		t.Errorf("modprobe -r nvme would do\n%s", got)
	}
}

// modprobe runs modprobe with the package's configuration alone, where /sys shows
// the modules of tree, loaded and unused, and gives what it says.
func modprobe(t *testing.T, args ...string) string {
	t.Helper()
	program, err := exec.LookPath("modprobe")
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("there is no modprobe here (package kmod)")
	}
	must(t, err)
	const config, version = "../../packaging/modprobe.d/vfio-hotplug.conf", "6.1.0"
	root := t.TempDir()
	modules := filepath.Join(root, "usr/lib/modules", version)
	for name, needs := range tree {
		file, _, _ := strings.Cut(needs, ":")
		create(t, filepath.Join(modules, file), "")
		state := filepath.Join(root, "sys/module", name)
		must(t, os.MkdirAll(filepath.Join(state, "holders"), 0o755))
		create(t, filepath.Join(state, "initstate"), "live\n")
		create(t, filepath.Join(state, "refcnt"), "0\n")
	}
	create(t, filepath.Join(modules, "modules.dep.bin"), trie(tree))
	for _, name := range []string{"alias", "symbols", "builtin", "builtin.alias"} {
		create(t, filepath.Join(modules, "modules."+name+".bin"), trie(nil))
	}
	must(t, os.Symlink("usr/lib", filepath.Join(root, "lib")))
	cmd := exec.Command("sh", append([]string{"-c", `mount --bind "$0" /sys && exec "$@"`, filepath.Join(root, "sys"),
		program, "--config", config, "--dirname", root, "--set-version", version}, args...)...)
	return output(t, cmd)
}

// output runs a command in a mount namespace of its own. It skips the test where
// the kernel gives it none.
func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	said, err := cmd.CombinedOutput()
	if errors.Is(err, fs.ErrPermission) {
		t.Skipf("no private mount namespace: %v", err)
	}
	if err != nil {
		t.Fatalf("%s%v", said, err)
	}
	return string(said)
}

// trie writes an index as depmod does and libkmod reads (libkmod-index.h): a
// header, and nodes of which each has a child for every byte that may follow.
func trie(index map[string]string) string {
	const magic, version = 0xb007f457, 0x00020001
	file := binary.BigEndian.AppendUint32(nil, magic)
	file = binary.BigEndian.AppendUint32(file, version)
	file = append(file, 0, 0, 0, 0)
	root := node(&file, index)
	binary.BigEndian.PutUint32(file[8:], root)
	return string(file)
}

// node appends a node for the rest of some keys, after its children, and gives
// its offset and what it has.
func node(file *[]byte, index map[string]string) uint32 {
	const children, values = 0x20000000, 0x40000000
	after := map[byte]map[string]string{}
	for key, value := range index {
		if key == "" {
			continue
		}
		if after[key[0]] == nil {
			after[key[0]] = map[string]string{}
		}
		after[key[0]][key[1:]] = value
	}
	var body []byte
	var has uint32
	if len(after) > 0 {
		has |= children
		body = append(body, 0x00, 0x7f)
		for b := range byte(0x80) {
			child := uint32(0)
			if after[b] != nil {
				child = node(file, after[b])
			}
			body = binary.BigEndian.AppendUint32(body, child)
		}
	}
	if value, ends := index[""]; ends {
		has |= values
		body = append(body, 0, 0, 0, 1, 0, 0, 0, 0)
		body = append(append(body, value...), 0)
	}
	offset := uint32(len(*file))
	*file = append(*file, body...)
	return offset | has
}

func create(t *testing.T, name, text string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(name), 0o755))
	must(t, os.WriteFile(name, []byte(text), 0o644))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
