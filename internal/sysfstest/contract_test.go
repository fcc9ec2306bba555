package sysfstest

import (
	"context"
	"testing"

	"vfio-hotplug/internal/pci"
)

func TestContractOfTheModel(t *testing.T) {
	for _, release := range []Release{Linux61, Linux612, Linux617, Linux619, Linux73} {
		t.Run(release.String(), func(t *testing.T) {
			t.Parallel()
			Contract(t, newModelLab(Options{Release: release}))
		})
	}
}

func TestContractOfTheModelWithoutIOMMU(t *testing.T) {
	ContractWithoutIOMMU(t, newModelLab(Options{NoIOMMU: true}))
}

// modelLab is the model as a Lab.
type modelLab struct {
	*Kernel
	*Events
	bays []pci.Address
}

func newModelLab(o Options) modelLab {
	k := New(o)
	lab := modelLab{Kernel: k, Events: k.Subscribe()}
	for i := range uint8(2) {
		a := pci.Address{Bus: i + 1}
		k.AddBay(Bay{Address: a, Slot: string('1' + rune(i)), Above: []pci.Address{{Device: 4 + i}}})
		lab.bays = append(lab.bays, a)
	}
	return lab
}

func (l modelLab) Release() (major, minor int) {
	r := int(l.Kernel.Release())
	return r / 100, r % 100
}

func (l modelLab) Next(ctx context.Context) (Event, error) { return l.Events.Next(ctx) }

func (l modelLab) Plug(bay int) error {
	l.Kernel.Plug(l.bays[bay], Drive{})
	return nil
}

func (l modelLab) Unplug(bay int) error {
	l.Kernel.Unplug(l.bays[bay])
	return nil
}

func (l modelLab) Load(driver string) error   { return l.LoadModule(driver) }
func (l modelLab) Unload(driver string) error { return l.UnloadModule(driver) }

func (l modelLab) Hold(a pci.Address) (func(), error) {
	h, err := l.Kernel.Hold(a)
	if err != nil {
		return nil, err
	}
	return h.Release, nil
}
