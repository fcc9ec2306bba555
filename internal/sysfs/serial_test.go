package sysfs

import (
	"encoding/binary"
	"strings"
	"testing"
)

// space is config space with words put into it.
func space(size int, words map[int]uint32) string {
	c := make([]byte, size)
	for at, word := range words {
		binary.LittleEndian.PutUint32(c[at:], word)
	}
	return string(c)
}

// header is the header of an extended capability.
func header(capability, next uint32) uint32 { return next<<20 | 1<<16 | capability }

func TestSerialNumber(t *testing.T) {
	const dsn, aer = 0x0003, 0x0001
	number := map[int]uint32{0x104: 0x55667788, 0x108: 0x11223344}
	with := func(words map[int]uint32, at int, word uint32) map[int]uint32 {
		all := map[int]uint32{at: word}
		for k, v := range words {
			all[k] = v
		}
		return all
	}
	for _, test := range []struct {
		name   string
		config string
		want   uint64
	}{
		{"the first capability", space(4096, with(number, 0x100, header(dsn, 0))), 0x1122334455667788},
		{"a later capability", space(4096, map[int]uint32{
			0x100: header(aer, 0x148), 0x148: header(dsn, 0x158), 0x14c: 1, 0x158: header(aer, 0),
		}), 1},
		{"a chain that goes back before it comes to it", space(4096, map[int]uint32{
			0x100: header(aer, 0x200), 0x200: header(aer, 0x150), 0x150: header(dsn, 0), 0x154: 7,
		}), 7},
		{"none in the chain", space(4096, map[int]uint32{0x100: header(aer, 0x148), 0x148: header(aer, 0)}), 0},
		{"no extended capabilities", space(4096, nil), 0},
		{"config of an unprivileged reader", space(64, nil), 0},
		{"config of a conventional device", space(256, nil), 0},
		{"empty config", "", 0},
		{"config of a device that is gone: all ones", strings.Repeat("\xff", 4096), 0},
		{"a chain that ends in itself", space(4096, map[int]uint32{0x100: header(aer, 0x100)}), 0},
		{"a chain of two that never ends", space(4096, map[int]uint32{0x100: header(aer, 0x148), 0x148: header(aer, 0x100)}), 0},
		{"a chain into the standard header", space(4096, with(map[int]uint32{0x40: header(dsn, 0), 0x44: 9}, 0x100, header(aer, 0x40))), 0},
		{"a chain past the end", space(0x200, map[int]uint32{0x100: header(aer, 0x200)}), 0},
		{"a number that is cut off", space(0x10b, map[int]uint32{0x100: header(dsn, 0), 0x104: 5}), 0},
		{"a number at the very end", space(0x10c, with(number, 0x100, header(dsn, 0))), 0x1122334455667788},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := serialNumber(test.config); got != test.want {
				t.Errorf("serial number is %#x, want %#x", got, test.want)
			}
		})
	}
}
