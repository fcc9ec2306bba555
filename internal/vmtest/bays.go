package vmtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/vmtest/qmp"
)

// prepare numbers the functions of a device and makes their images.
func (g *Guest) prepare(bay int, d Device) (plugged, error) {
	if d.Second == nil {
		return g.prepareOne(d)
	}
	second, err := g.prepareOne(d.Second.at(bay, 1))
	if err != nil {
		return plugged{}, err
	}
	p, err := g.prepareOne(d.at(bay, 0))
	p.second = &second
	return p, err
}

// at gives a device the place of a function beside another.
func (d Device) at(bay, function int) Device {
	props := map[string]any{"addr": fmt.Sprintf("0x0.%d", function), "multifunction": true}
	maps.Copy(props, d.Props)
	d.Props = props
	if d.Serial == "" && d.model() == "nvme" { // nvme refuses a second drive with the name of the first
		d.Serial = fmt.Sprintf("BAY%dF%d", bay, function)
	}
	return d
}

func (g *Guest) prepareOne(d Device) (plugged, error) {
	g.mu.Lock()
	g.next++
	number := g.next
	g.mu.Unlock()
	p := plugged{id: fmt.Sprintf("device%d", number), device: d}
	if !d.hasDrive() {
		return p, nil
	}
	p.disk = &disk{node: fmt.Sprintf("disk%d", number), image: d.Image}
	if d.Image == "" {
		p.disk.image, p.disk.ours = fmt.Sprintf("disk%d.img", number), true
		return p, blank(filepath.Join(g.dir, p.disk.image), d.size())
	}
	var err error
	p.disk.image, err = filepath.Abs(d.Image)
	return p, err
}

// Plug puts a device into a bay. It returns when QEMU has done its part; the
// kernel sees it a little later, and says so by a uevent.
func (g *Guest) Plug(ctx context.Context, bay int, d Device) error {
	if err := g.free(bay); err != nil {
		return err
	}
	p, err := g.prepare(bay, d)
	if err != nil {
		return fmt.Errorf("plug bay %d: %w", bay, err)
	}
	for _, f := range p.functions() {
		if err := g.add(ctx, bay, f); err != nil {
			return fmt.Errorf("plug bay %d: %w", bay, err)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.plugged[bay] = p
	return nil
}

// add hands one function to QEMU.
func (g *Guest) add(ctx context.Context, bay int, p plugged) error {
	if p.disk != nil {
		if err := g.QMP.Execute(ctx, "blockdev-add", p.disk.blockdev(), nil); err != nil {
			return err
		}
	}
	if err := g.QMP.Execute(ctx, "device_add", p.device.deviceAdd(p.id, bay, p.disk), nil); err != nil {
		return errors.Join(err, g.discard(ctx, p))
	}
	return nil
}

func (g *Guest) free(bay int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if bay < 0 || bay >= g.cfg.bays() {
		return fmt.Errorf("the guest has no bay %d", bay)
	}
	if p, ok := g.plugged[bay]; ok {
		return fmt.Errorf("bay %d holds %s", bay, p.id)
	}
	return nil
}

// Unplug takes out what a bay holds, and returns when it is gone. With native
// hot-plug it switches the slot off by hand: left to itself, the kernel waits
// five seconds after the attention button. An unplug that the kernel holds up
// lasts until the context ends.
func (g *Guest) Unplug(ctx context.Context, bay int) error {
	g.mu.Lock()
	p, ok := g.plugged[bay]
	g.mu.Unlock()
	if !ok {
		return fmt.Errorf("bay %d is empty", bay)
	}
	mark := g.QMP.Mark()
	if err := g.eject(ctx, bay, p.id); err != nil {
		return fmt.Errorf("unplug bay %d: %w", bay, err)
	}
	for _, f := range p.functions() {
		_, err := g.QMP.Wait(ctx, mark, func(e qmp.Event) bool {
			var deleted struct{ Device string }
			return e.Name == "DEVICE_DELETED" && json.Unmarshal(e.Data, &deleted) == nil && deleted.Device == f.id
		})
		if err != nil {
			return fmt.Errorf("unplug bay %d: wait for DEVICE_DELETED: %w", bay, err)
		}
	}
	g.mu.Lock()
	delete(g.plugged, bay)
	g.mu.Unlock()
	for _, f := range p.functions() {
		if err := g.discard(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

func (g *Guest) eject(ctx context.Context, bay int, id string) error {
	if g.cfg.Hotplug == Native {
		if err := g.powerOff(ctx, bay); err != nil {
			return err
		}
	}
	err := g.QMP.Execute(ctx, "device_del", map[string]any{"id": id}, nil)
	var refused *qmp.Error
	if errors.As(err, &refused) && refused.Class == "DeviceNotFound" {
		return nil // the slot's power was enough
	}
	return err
}

// powerOff switches a slot off. While it is being switched on, which goes on
// for a moment after the device's events, the answer is ENODEV, as for one that
// is off (drivers/pci/hotplug/pciehp_ctrl.c, pciehp_sysfs_disable_slot).
func (g *Guest) powerOff(ctx context.Context, bay int) error {
	power := fmt.Sprintf("/sys/bus/pci/slots/%d/power", bay+1)
	return g.WaitFor(ctx, power+" to take a 0 without ENODEV", func(ctx context.Context) (bool, error) {
		err := g.WriteFile(ctx, power, "0")
		if errors.Is(err, unix.ENODEV) {
			return false, nil
		}
		return err == nil, err
	})
}

// discard forgets the image of a device that is gone.
func (g *Guest) discard(ctx context.Context, p plugged) error {
	if p.disk == nil {
		return nil
	}
	if err := g.QMP.Execute(ctx, "blockdev-del", map[string]any{"node-name": p.disk.node}, nil); err != nil {
		return err
	}
	if !p.disk.ours {
		return nil
	}
	return os.Remove(filepath.Join(g.dir, p.disk.image))
}

// PortAddress is the PCI address of a bay's root port.
func PortAddress(bay int) string { return fmt.Sprintf("0000:00:%02x.0", firstBay+bay) }

// Address is the PCI address that function 0 of a device in a bay has.
func (g *Guest) Address(ctx context.Context, bay int) (string, error) {
	return g.below(ctx, PortAddress(bay))
}

// below gives the PCI address of function 0 of what is at a root port.
func (g *Guest) below(ctx context.Context, port string) (string, error) {
	bus, err := g.ReadFile(ctx, "/sys/bus/pci/devices/"+port+"/secondary_bus_number")
	if err != nil {
		return "", err
	}
	var number int
	if _, err := fmt.Sscan(bus, &number); err != nil {
		return "", fmt.Errorf("bus number below %s: %w", port, err)
	}
	return fmt.Sprintf("0000:%02x:00.0", number), nil
}

// Driver gives the driver that the device in a bay is bound to, "" for none.
// Without a device it is an error that is fs.ErrNotExist.
func (g *Guest) Driver(ctx context.Context, bay int) (string, error) {
	address, err := g.Address(ctx, bay)
	if err != nil {
		return "", err
	}
	device := "/sys/bus/pci/devices/" + address
	if _, err := g.Stat(ctx, device); err != nil {
		return "", err
	}
	link, err := g.Stat(ctx, device+"/driver")
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return link.Target[strings.LastIndexByte(link.Target, '/')+1:], err
}
