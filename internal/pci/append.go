package pci

import "strconv"

// Append adds the spelling of String to b, and gives the longer slice. Given
// room for it, it does not allocate.
func (a Address) Append(b []byte) []byte {
	for limit := uint32(0x1000); limit > 1 && a.Domain < limit; limit >>= 4 {
		b = append(b, '0')
	}
	b = strconv.AppendUint(b, uint64(a.Domain), 16)
	b = append(appendHex(append(b, ':'), a.Bus), ':')
	b = append(appendHex(b, a.Device), '.')
	return strconv.AppendUint(b, uint64(a.Function), 10)
}

func appendHex(b []byte, n uint8) []byte {
	const digits = "0123456789abcdef"
	return append(b, digits[n>>4], digits[n&0xf])
}
