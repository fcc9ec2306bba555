package inuse

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// adminCommand is struct nvme_passthru_cmd (linux/nvme_ioctl.h).
type adminCommand struct {
	Opcode      uint8
	Flags       uint8
	Reserved    uint16
	Namespace   uint32
	Word2       uint32
	Word3       uint32
	Metadata    uint64
	Address     uint64
	MetadataLen uint32
	DataLen     uint32
	Word10      uint32
	Word11      uint32
	Word12      uint32
	Word13      uint32
	Word14      uint32
	Word15      uint32
	TimeoutMS   uint32
	Result      uint32

	data *[identifySize]byte // where the answer goes; the kernel does not see this field
}

const (
	ioctlAdmin   = 0xc0484e41 // _IOWR('N', 0x41, struct nvme_passthru_cmd)
	identify     = 0x06
	activeList   = 0x02 // the value of CNS for the active namespaces
	identifySize = 4096
	commandLimit = 10 * time.Second // after which the kernel resets the controller
)

// statusError is the status that a controller answered with (NVM Express base
// specification, "Status Field").
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("the controller answered status %#x", int(e)) }

// mostNamespaces is more than any real controller has; the specification allows
// one to list four thousand million.
const mostNamespaces = 4096

// activeNamespaces pages through the list of active namespaces: each command
// gives those above a number, 1024 at most, and zeros after the last one.
// Controllers older than NVMe 1.1 do not know it.
func activeNamespaces(submit func(*adminCommand) error) ([]uint32, error) {
	all := []uint32{}
	for last := uint32(0); ; {
		c := &adminCommand{Opcode: identify, Namespace: last, Word10: activeList, data: new([identifySize]byte)}
		if err := submit(c); err != nil {
			return nil, err
		}
		for at := 0; at < identifySize; at += 4 {
			id := binary.LittleEndian.Uint32(c.data[at:])
			if id == 0 {
				return all, nil
			}
			if id <= last {
				return nil, fmt.Errorf("its list of namespaces is not in order: %d after %d", id, last)
			}
			if len(all) == mostNamespaces {
				return nil, fmt.Errorf("it lists more than %d namespaces", mostNamespaces)
			}
			all, last = append(all, id), id
		}
	}
}

// submit sends a command that reads into data.
func (c *adminCommand) submit(controller *os.File) error {
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(c.data)
	c.Address, c.DataLen = uint64(uintptr(unsafe.Pointer(c.data))), identifySize
	c.TimeoutMS = uint32(commandLimit / time.Millisecond)
	status, _, errno := unix.Syscall(unix.SYS_IOCTL, controller.Fd(), ioctlAdmin, uintptr(unsafe.Pointer(c)))
	if errno != 0 {
		return errno
	}
	if status != 0 {
		return statusError(status)
	}
	return nil
}
