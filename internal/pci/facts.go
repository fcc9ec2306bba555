package pci

// Facts names parts of a Device that cost extra reads, so that a caller on
// the latency path reads only what its policy looks at. The IDs, the address
// and the driver are always read.
type Facts uint16

const (
	FactOverride Facts = 1 << iota // takes the device lock before Linux 6.12.91: waits for a running probe
	FactGroup                      // IOMMUGroup
	FactNUMA                       // NUMANode
	FactSlot                       // Slot: reads every slot of the machine
	FactUpstream                   // Upstream
	FactPhysFn                     // PhysFn, VirtFn
	FactDSN                        // DSN: reads config space, which wakes a sleeping device; all of it is for CAP_SYS_ADMIN
	FactVFs                        // VFs
	FactPorts                      // PortSlots: reads every slot of the machine

	NoFacts  Facts = 0
	AllFacts Facts = 1<<iota - 1
)

// Has reports whether all of want is in f.
func (f Facts) Has(want Facts) bool { return f&want == want }

// Unread is a fact that could not be read, and so is not known: its field in the
// Device says nothing.
type Unread struct {
	Fact   Facts
	Why    string // one line
	Denied bool   // the reader lacks the right to
	Soon   bool   // the kernel is about to tell it
}
