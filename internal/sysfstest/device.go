package sysfstest

import (
	"fmt"
	"maps"
	"strconv"
	"strings"
	"syscall"

	"vfio-hotplug/internal/pci"
)

// device is a PCI function that is or was plugged in. Kernel.mu guards what
// changes; lock is the kernel's device lock, taken before Kernel.mu.
type device struct {
	k       *Kernel
	lock    lock
	address pci.Address
	drive   Drive
	bay     Bay
	dir     *node
	group   *group
	physfn  *device
	vfs     []*device

	matching bool    // pci_dev.match_driver: drivers may match
	dead     bool    // being removed: no driver can bind any more
	driver   *driver // dev->driver: from the begin of its probe to the end of its removal
	override string
	touched  []string // drivers whose probe ran, in order
	holder   *Holder
	before   []func() // takes away what goes before the driver waits for a holder
	undo     []func() // takes away what the driver made, last first

	controller *node // what nvme made
	instance   int   // its number
}

// newDevice makes the directory of a device and sends its add event. Nothing
// can match it yet.
func (k *Kernel) newDevice(a pci.Address, drive Drive, physfn *device) *device {
	bay, known := k.bays[a]
	if !known {
		bay = Bay{Address: a, NUMANode: pci.NoNode}
		if physfn != nil {
			bay.Above, bay.NUMANode, bay.ARI = physfn.bay.Above, physfn.bay.NUMANode, physfn.bay.ARI
		}
	}
	d := &device{k: k, lock: newLock(), address: a, drive: drive.withDefaults(), bay: bay, physfn: physfn}
	d.dir = k.root.mkdir(parentPath(bay)).mkdir(a.String())
	d.plant()
	k.joinGroup(d)
	k.root.mkdir("bus/pci/devices").link(a.String(), d.dir)
	k.devices = append(k.devices, d)
	k.last[a] = d
	d.emit("add", nil)
	return d
}

// parentPath is where the kernel puts a device: below its bridges, with a new
// root wherever the domain changes.
func parentPath(b Bay) string {
	at := "devices"
	var last *pci.Address
	for _, a := range append(append([]pci.Address(nil), b.Above...), b.Address) {
		if last == nil || last.Domain != a.Domain {
			bus := uint8(0)
			if last == nil && len(b.Above) == 0 {
				bus = a.Bus
			}
			at += fmt.Sprintf("/pci%04x:%02x", a.Domain, bus)
		}
		if a != b.Address {
			at += "/" + a.String()
		}
		last = &a
	}
	return at
}

// plant makes the attributes that every PCI function has.
func (d *device) plant() {
	ids := d.drive.IDs
	for name, value := range map[string]string{
		"vendor":           ids.Vendor.String(),
		"device":           ids.Device.String(),
		"subsystem_vendor": ids.SubVendor.String(),
		"subsystem_device": ids.SubDevice.String(),
		"class":            ids.Class.String(),
		"modalias":         modalias(ids),
		"revision":         "0x00",
		"numa_node":        strconv.Itoa(d.bay.NUMANode),
		"ari_enabled":      map[bool]string{false: "0", true: "1"}[d.bay.ARI],
	} {
		d.dir.file(name, text(value+"\n"))
	}
	d.dir.file("config", attribute{show: d.showConfig})
	d.dir.file("uevent", attribute{show: d.showUevent, store: d.synthesize})
	d.dir.file("driver_override", attribute{show: d.showOverride, store: d.setOverride})
	d.dir.file("enable", attribute{show: d.showEnable})
	d.dir.link("subsystem", d.k.root.mkdir("bus/pci"))
	if d.drive.DSN != 0 && d.k.options.Release >= Linux619 {
		d.dir.file("serial_number", text(serialNumber(d.drive.DSN)+"\n"))
	}
	if d.drive.Forwards {
		d.dir.file("secondary_bus_number", text("1\n"))
		d.dir.file("subordinate_bus_number", text("1\n"))
	}
	if d.drive.TotalVFs > 0 {
		d.dir.file("sriov_totalvfs", text(strconv.Itoa(d.drive.TotalVFs)+"\n"))
		d.dir.file("sriov_numvfs", attribute{show: d.showVFs, store: d.setVFs})
	}
	if d.physfn != nil {
		d.dir.file("sriov_vf_msix_count", attribute{store: func(string) error { return syscall.EOPNOTSUPP }})
	}
}

// serialNumber is the kernel's spelling: 00-11-22-33-44-55-66-77.
func serialNumber(dsn uint64) string {
	var octets []string
	for shift := 56; shift >= 0; shift -= 8 {
		octets = append(octets, fmt.Sprintf("%02x", byte(dsn>>shift)))
	}
	return strings.Join(octets, "-")
}

func (d *device) showConfig() (string, error) {
	config := d.drive.config()
	if d.k.options.Unprivileged {
		config = config[:64]
	}
	return config, nil
}

// showEnable counts who has enabled the device: a driver that drives it, or a
// program that has it open through vfio.
func (d *device) showEnable() (string, error) {
	d.k.mu.Lock()
	defer d.k.mu.Unlock()
	if d.holder != nil || d.driver != nil && d.driver.DMA {
		return "1\n", nil
	}
	return "0\n", nil
}

func (d *device) showUevent() (string, error) {
	d.k.mu.Lock()
	defer d.k.mu.Unlock()
	text := ""
	if d.driver != nil {
		text = "DRIVER=" + d.driver.Name + "\n"
	}
	env := d.env()
	for _, key := range []string{"PCI_CLASS", "PCI_ID", "PCI_SUBSYS_ID", "PCI_SLOT_NAME", "MODALIAS"} {
		text += key + "=" + env[key] + "\n"
	}
	return text, nil
}

// synthetic is kobject_synth_uevent (lib/kobject_uevent.c): an event that
// somebody asks for, as udevadm trigger does: "change", and a UUID if they
// like. The model takes no further arguments.
func synthetic(value string) (action string, env map[string]string, err error) {
	fields := strings.Fields(value)
	if len(fields) < 1 || len(fields) > 2 {
		return "", nil, syscall.EINVAL
	}
	switch fields[0] {
	case "add", "remove", "change", "move", "online", "offline", "bind", "unbind":
	default:
		return "", nil, syscall.EINVAL
	}
	env = map[string]string{"SYNTH_UUID": "0"}
	if len(fields) == 2 {
		if len(fields[1]) != len("00000000-0000-0000-0000-000000000000") {
			return "", nil, syscall.EINVAL
		}
		env["SYNTH_UUID"] = fields[1]
	}
	return fields[0], env, nil
}

func (d *device) synthesize(value string) error {
	action, more, err := synthetic(value)
	if err != nil {
		return err
	}
	d.k.mu.Lock()
	defer d.k.mu.Unlock()
	if d.dead {
		return syscall.ENODEV
	}
	if d.driver != nil {
		more["DRIVER"] = d.driver.Name
	}
	d.emit(action, more)
	return nil
}

func (d *device) showOverride() (string, error) {
	defer d.overrideLock()()
	d.k.mu.Lock()
	defer d.k.mu.Unlock()
	if d.dead {
		return "", syscall.ENODEV
	}
	if d.override == "" {
		return "(null)\n", nil
	}
	return d.override + "\n", nil
}

// setOverride is driver_set_override (drivers/base/driver.c).
func (d *device) setOverride(value string) error {
	if len(value) >= pageSize-1 {
		return syscall.EINVAL
	}
	name, _, _ := strings.Cut(value, "\n")
	defer d.overrideLock()()
	d.k.mu.Lock()
	defer d.k.mu.Unlock()
	if d.dead {
		return syscall.ENODEV
	}
	d.override = name
	return nil
}

// overrideLock takes the device lock where this kernel does for
// driver_override, and gives what lets go of it.
func (d *device) overrideLock() (unlock func()) {
	if !d.k.options.Release.overrideLocks() {
		return func() {}
	}
	d.lock.lock()
	return d.lock.unlock
}

// env is what pci_uevent adds to an event of the device.
func (d *device) env() map[string]string {
	i := d.drive.IDs
	return map[string]string{
		"PCI_CLASS":     fmt.Sprintf("%04X", uint32(i.Class)),
		"PCI_ID":        fmt.Sprintf("%04X:%04X", uint16(i.Vendor), uint16(i.Device)),
		"PCI_SUBSYS_ID": fmt.Sprintf("%04X:%04X", uint16(i.SubVendor), uint16(i.SubDevice)),
		"PCI_SLOT_NAME": d.address.String(),
		"MODALIAS":      modalias(i),
	}
}

// emit sends an event of the device. Unbind carries no MODALIAS
// (lib/kobject_uevent.c, zap_modalias_env).
func (d *device) emit(action string, more map[string]string) {
	env := d.env()
	if action == "unbind" {
		delete(env, "MODALIAS")
	}
	maps.Copy(env, more)
	d.k.emit(action, "/"+d.dir.path(), "pci", env)
}

// child makes a device below this one, of a class, with its links and its add
// event, and gives it and what removes it again.
func (k *Kernel) child(parent *node, name, class string, env map[string]string) (*node, func()) {
	n := parent.mkdir(name)
	own := name
	n.link("subsystem", k.root.mkdir("class/"+class))
	k.root.mkdir("class/"+class).link(own, n)
	devpath := "/" + n.path()
	n.file("uevent", attribute{store: func(value string) error {
		action, more, err := synthetic(value)
		if err != nil {
			return err
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		maps.Copy(more, env)
		k.emit(action, devpath, class, more)
		return nil
	}})
	k.emit("add", devpath, class, env)
	return n, func() {
		k.root.mkdir("class/" + class).remove(own)
		k.emit("remove", devpath, class, env)
		n.parent.remove(own)
	}
}
