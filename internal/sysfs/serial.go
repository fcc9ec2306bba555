package sysfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
)

// The parts of config space, and all of it.
const (
	standardConfig = 0x100
	wholeConfig    = 0x1000
)

// unanswered is what a read of a device gives that does not answer.
const unanswered = 0xffffffff

var errUnanswered = errors.New("the device does not answer: its config space reads as ones")

// serialNumber finds the Device Serial Number in config space: extended
// capability 0x0003 (PCI Express base specification, 7.9.3). It is 0 where the
// device has none, and an error where it may have one that config does not show: a
// read ends, without an error, where the reader's right ends (drivers/pci/pci-sysfs.c,
// pci_read_config), and a device that is off or dead gives ones.
func serialNumber(config string) (uint64, error) {
	const status, capability = 0x06, 0x0003
	switch {
	case len(config) > status+1 && config[status] == 0xff && config[status+1] == 0xff:
		return 0, errUnanswered
	case len(config) == standardConfig && !express(config):
		return 0, nil
	case len(config) == standardConfig:
		return 0, errors.New("the machine reaches no further than the first 256 bytes of its config space")
	}
	for at, seen := standardConfig, 0; at >= standardConfig && at+12 <= len(config) && seen < 48; seen++ {
		header := binary.LittleEndian.Uint32([]byte(config[at : at+4]))
		switch {
		case header == unanswered:
			return 0, errUnanswered
		case header&0xffff == capability:
			return binary.LittleEndian.Uint64([]byte(config[at+4 : at+12])), nil
		}
		at = int(header >> 20)
	}
	if len(config) < wholeConfig {
		return 0, fmt.Errorf("config space ends at %d bytes for who lacks CAP_SYS_ADMIN: %w", len(config), fs.ErrPermission)
	}
	return 0, nil
}

// express reports whether config, of standardConfig bytes at least, is that of a
// PCI Express device: capability 0x10 (PCI local bus specification, 6.7).
func express(config string) bool {
	const status, hasList, list, capability = 0x06, 1 << 4, 0x34, 0x10
	if config[status]&hasList == 0 {
		return false
	}
	for at, seen := int(config[list]), 0; at >= 0x40 && at+1 < standardConfig && seen < 48; seen++ {
		at &^= 3
		if config[at] == capability {
			return true
		}
		at = int(config[at+1])
	}
	return false
}
