package policy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// dsnText spells a PCIe Device Serial Number as lspci and the kernel do:
// 00-11-22-33-44-55-66-77.
func dsnText(n uint64) string {
	pairs := make([]string, 8)
	for i := range pairs {
		pairs[i] = fmt.Sprintf("%02x", byte(n>>(56-8*i)))
	}
	return strings.Join(pairs, "-")
}

var errDSN = errors.New("want eight pairs of hex digits as lspci prints them, such as 00-11-22-33-44-55-66-77")

// parseDSN reads what dsnText writes, in either case, or 16 hex digits with or
// without 0x.
func parseDSN(s string) (uint64, error) {
	digits := trimHexPrefix(s)
	if strings.Contains(s, "-") {
		pairs := strings.Split(s, "-")
		if slices.ContainsFunc(pairs, func(pair string) bool { return len(pair) != 2 }) {
			return 0, errDSN
		}
		digits = strings.Join(pairs, "")
	}
	n, err := strconv.ParseUint(digits, 16, 64)
	switch {
	case err != nil || len(digits) != 16:
		return 0, errDSN
	case n == 0:
		return 0, errors.New("no device has the serial number 0: it stands for none")
	}
	return n, nil
}

// addDSN reads a PCIe Device Serial Number, as a string or as a bare hex number.
func addDSN(values *[]uint64, n *node) error {
	number, err := parseDSN(n.hexAsText().text)
	switch {
	case n.kind != stringKind && n.kind != integerKind:
		return fmt.Errorf("%s; %w", n.kind, errDSN)
	case err != nil:
		return err
	}
	*values = append(*values, number)
	return nil
}
