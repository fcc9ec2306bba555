package inuse

import (
	"errors"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"vfio-hotplug/internal/sysfs"
)

// configfs is where it is mounted, below sysfs.
const configfs = "kernel/config"

// export is a device that the kernel gives to other machines, or would once
// somebody says so.
type export struct {
	kind  Kind // Export, or Named where it is switched off
	name  string
	where string // its directory, below sysfs
}

// target lists a directory of an NVMe or SCSI target in configfs. One that is
// loaded always has it where configfs is mounted, and goes on without.
func (l *look) target(name, module, dir string) ([]string, error) {
	names, err := l.sys.List(dir)
	slices.Sort(names)
	if !sysfs.Gone(err) {
		return names, err
	}
	loaded, err := l.sys.Open("module/" + module)
	if sysfs.Gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	l.report.doubt("mount -t configfs configfs /sys/"+configfs,
		"what %s exports cannot be seen: it is loaded, and has no directory in /sys/%s", name, configfs)
	return nil, loaded.Close()
}

// addExports notes what the kernel's NVMe and SCSI targets have of which
// device. They open a node by its path, nvmet without a claim, and show in no
// process.
func (l *look) addExports(u users) {
	l.doing("the look for exports")
	if err := both(l.addNVMeTarget(u), l.addSCSITarget(u)); err != nil {
		l.report.doubt("be root", "what is exported cannot be read: %v", err)
	}
}

// addNVMeTarget reads nvmet's namespaces, and the controllers that it passes
// through whole (drivers/nvme/target/configfs.c).
func (l *look) addNVMeTarget(u users) error {
	const root = configfs + "/nvmet/subsystems"
	subsystems, err := l.target("nvmet", "nvmet", root)
	for _, subsystem := range subsystems {
		where := root + "/" + subsystem
		ids, fault := list(l.sys, where+"/namespaces")
		err = both(err, fault)
		for _, id := range ids {
			err = both(err, l.addNVMe(u, where+"/namespaces/"+id, "nvmet "+subsystem+" namespace "+id))
		}
		err = both(err, l.addNVMe(u, where+"/passthru", "nvmet "+subsystem+" passthru"))
	}
	return err
}

func (l *look) addNVMe(u users, where, name string) error {
	node, err := attribute(l.sys, where+"/device_path")
	if sysfs.Gone(err) || node == "(null)" { // none given yet
		return nil
	}
	if err != nil {
		return err
	}
	return l.addExport(u, where, node, name)
}

const (
	backstores = configfs + "/target/core"
	iblocks    = backstores + "/iblock_"

	endExport = "correct or end that export: nvmetcli, targetcli"
)

// addSCSITarget reads LIO's backstores that may have a device: iblock, pscsi,
// and fileio on a node (drivers/target/target_core_configfs.c).
func (l *look) addSCSITarget(u users) error {
	adapters, err := l.target("LIO", "target_core_mod", backstores)
	for _, adapter := range adapters {
		plugin, _, _ := strings.Cut(adapter, "_")
		if plugin != "iblock" && plugin != "pscsi" && plugin != "fileio" {
			continue
		}
		names, fault := list(l.sys, backstores+"/"+adapter)
		err = both(err, fault)
		for _, name := range names { // attributes of the adapter are among them
			err = both(err, l.addBackstore(u, backstores+"/"+adapter+"/"+name, "LIO "+adapter+"/"+name))
		}
	}
	return err
}

// What a backstore says in info: an iblock the number of the device that it has
// open, a fileio its file (target_core_iblock.c, target_core_file.c).
var (
	infoNumber = regexp.MustCompile(`Major: ([1-9]\d*) Minor: (\d+)`)
	infoFile   = regexp.MustCompile(`File: (.+?)  Size: `)
)

func (l *look) addBackstore(u users, where, name string) error {
	info, err := attribute(l.sys, where+"/info")
	if sysfs.Gone(err) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	if m := infoNumber.FindStringSubmatch(info); m != nil {
		n, err := parseNumber(m[1] + ":" + m[2])
		u.exports[device{number: n}] = append(u.exports[device{number: n}], export{Export, name, where})
		return err
	}
	if m := infoFile.FindStringSubmatch(info); m != nil {
		return l.addExport(u, where, m[1], name)
	}
	node, err := attribute(l.sys, where+"/udev_path")
	if sysfs.Gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if node == "" {
		return l.unnamed(where, name)
	}
	return l.addExport(u, where, node, name)
}

// unnamed notes a backstore that is switched on, must have a block device, and
// does not say which.
func (l *look) unnamed(where, name string) error {
	enable, err := attribute(l.sys, where+"/enable")
	if sysfs.Gone(err) {
		return nil
	}
	if err == nil && enable != "0" && strings.HasPrefix(where, iblocks) {
		l.report.doubt(endExport, "what %s exports cannot be told: it names no device", name)
	}
	return err
}

// addExport notes the export that a directory describes under the device that
// its path leads to.
func (l *look) addExport(u users, where, node, name string) error {
	enable, err := attribute(l.sys, where+"/enable")
	if sysfs.Gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	e := export{Export, name, where}
	if enable == "0" {
		e = export{Named, name + " (off)", where}
	}
	d, ok, err := l.led(node)
	switch {
	case ok:
		u.exports[d] = append(u.exports[d], e)
	case err == nil: // it has gone, or is a file, which the mount of its file system covers
	case errors.Is(err, fs.ErrNotExist) && e.kind == Named:
	default:
		l.report.doubt(endExport, "what %s exports cannot be told: %v", name, err)
	}
	return nil
}
