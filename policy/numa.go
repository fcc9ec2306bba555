package policy

import (
	"fmt"
	"strconv"

	"vfio-hotplug/internal/pci"
)

// maxNode is the highest NUMA node that Linux can be built for (NODES_SHIFT is
// at most 10).
const maxNode = 1<<10 - 1

func numaText(node int) string {
	if node == pci.NoNode {
		return "none"
	}
	return strconv.Itoa(node)
}

// addNode reads the number of a NUMA node.
func addNode(values *[]int, n *node) error {
	if n.kind != integerKind {
		return fmt.Errorf("%s, where the number of a NUMA node should be", n.kind)
	}
	number, err := strconv.ParseInt(n.raw, 0, 64)
	if err != nil || number < 0 || number > maxNode {
		return fmt.Errorf("a NUMA node has a number from 0 to %d", maxNode)
	}
	*values = append(*values, int(number))
	return nil
}
