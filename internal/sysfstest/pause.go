package sysfstest

import (
	"slices"

	"vfio-hotplug/internal/pci"
)

// Point is a moment in what the kernel does to a device.
type Point int

// The points at which Pause can stop the kernel.
const (
	Matched   Point = iota // a driver has matched; its probe has not begun; the device lock is held
	Probing                // the probe has begun: the driver link is there; the device lock is held
	Probed                 // the driver has made its devices; no bind event yet; the device lock is held
	Releasing              // the driver link is gone; the driver still has the device, and its lock is held
	Scheduled              // from 6.17 on: the synchronous drivers have had their turn, the others come now; driver is ""
	Announced              // a VF has its add event, and no link to its physical function yet; driver is ""
	Stopped                // an unplug has unbound the device, and has not removed it yet; driver is ""
)

// Pause is a stop of the kernel at a point, once.
type Pause struct {
	point   Point
	driver  string
	at      pci.Address
	reached chan struct{}
	ended   chan struct{}
}

// Pause has the kernel stop when it next reaches a point with a driver and an
// address. Whoever led it there is blocked until End.
func (k *Kernel) Pause(point Point, driver string, a pci.Address) *Pause {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := &Pause{point: point, driver: driver, at: a, reached: make(chan struct{}), ended: make(chan struct{})}
	k.pauses = append(k.pauses, p)
	return p
}

// Reached is closed when the kernel has got there.
func (p *Pause) Reached() <-chan struct{} { return p.reached }

// End lets the kernel go on. Call it once.
func (p *Pause) End() { close(p.ended) }

func (k *Kernel) pause(point Point, driver string, d *device) {
	k.mu.Lock()
	i := slices.IndexFunc(k.pauses, func(p *Pause) bool {
		return p.point == point && p.driver == driver && p.at == d.address
	})
	if i < 0 {
		k.mu.Unlock()
		return
	}
	p := k.pauses[i]
	k.pauses = slices.Delete(k.pauses, i, i+1)
	k.mu.Unlock()
	close(p.reached)
	<-p.ended
}
