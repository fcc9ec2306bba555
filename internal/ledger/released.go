package ledger

import (
	"fmt"

	"vfio-hotplug/internal/pci"
)

// mark says that a person gave a device back, and so that the policy does not
// take it again.
type mark struct {
	Address  pci.Address `json:"address"`
	Identity uint64      `json:"identity,string"`
}

func (m mark) of() (pci.Address, uint64) { return m.Address, m.Identity }

func (m mark) valid(at pci.Address) error {
	if m.Address != at {
		return fmt.Errorf("it speaks of %s", m.Address)
	}
	return nil
}

// Release remembers that a person gave this incarnation of a device back. The
// caller holds the device's lock.
func (l *Ledger) Release(a pci.Address, identity uint64) error {
	return put(l, released, mark{Address: a, Identity: identity})
}

// Released reports whether a person gave this incarnation of a device back. A
// device that was plugged in since has another identity and is not released.
// With an error the answer is true: a mark that cannot be read may be this one,
// and a hand outranks the policy. It is one system call where there is no mark.
func (l *Ledger) Released(a pci.Address, identity uint64) (bool, error) {
	m, found, err := get[mark](l, released, a)
	if err != nil {
		return true, err
	}
	return found && m.Identity == identity, nil
}

// Forget drops the release of a device, also one that cannot be read: somebody
// bound the device by hand. The caller holds the device's lock.
func (l *Ledger) Forget(a pci.Address) error { return l.remove(released, a) }
