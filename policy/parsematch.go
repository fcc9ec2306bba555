package policy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"vfio-hotplug/internal/pci"
)

// match compiles the match of a rule or, inside it, the not of a match.
func (c *compiler) match(table *node, inNot bool) match {
	var m match
	if len(table.entries) == 0 && !table.cut {
		c.fault(table.at, "an empty match would match every device: name at least one key")
	}
	for _, e := range table.entries {
		k, ok := keyNamed(e.name)
		switch {
		case !ok:
			c.unknownMatchKey(e)
			continue
		case k == keyNot && inNot:
			c.fault(e.at, "not inside not: write these keys into match itself")
			continue
		case k == keyNot:
			m.not = c.notMatch(e.value)
		default:
			m.wants[k] = c.values(&m, k, e.value)
		}
		m.keys = append(m.keys, k)
	}
	slices.Sort(m.keys)
	return m
}

func (c *compiler) notMatch(n *node) *match {
	if !c.isTable(n) {
		return nil
	}
	m := c.match(n, true)
	return &m
}

func (c *compiler) unknownMatchKey(e entry) {
	var names []string
	for k := matched + 1; k < numKeys; k++ {
		names = append(names, k.String())
	}
	keys, why := elsewhere(e)
	switch near := nearest(e.name, names...); {
	case slices.Contains(ruleKeys(), e.name) && why == "":
		c.fault(e.at, "this key belongs to the rule, not into its match")
	case keys != "":
		c.fault(e.at, "unknown key%s", didYouMean(keys))
	case why != "":
		c.fault(e.at, "unknown key; %s", why)
	case near != "":
		c.fault(e.at, "unknown key%s", didYouMean(near))
	default:
		c.fault(e.at, "unknown key; a match has %s", strings.Join(names, ", "))
	}
}

// values reads the values of a key, one or a list of them, and gives them in the
// words of the file.
func (c *compiler) values(m *match, k key, n *node) string {
	items := []*node{n}
	if n.kind == listKind {
		items = n.items
		if len(items) == 0 {
			c.fault(n.at, "an empty list would match no device; leave the key out to match every %s", k)
		}
	}
	words := make([]string, len(items))
	for i, item := range items {
		words[i] = item.words()
		if err := m.add(k, item); err != nil {
			c.fault(item.at, "%v", err)
		}
	}
	return strings.Join(words, " or ")
}

// words gives a value as the file writes it, without quotes.
func (n *node) words() string {
	if n.kind == stringKind {
		return excerpt(n.text)
	}
	return n.raw
}

// add reads one value of the key k.
func (m *match) add(k key, n *node) error {
	switch k {
	case keyClass:
		return addText(&m.class, n.hexAsText(), parseClass, `a class is a name or hex digits, such as "nvme" or "0x010802"`)
	case keyVendor, keyDevice, keySubVendor, keySubDevice:
		return addID(&m.ids[k], n)
	case keyAddress:
		return addText(&m.addr, n, parseAddressGlob, `an address is a string, such as "0000:01:00.0"`)
	case keySlot:
		return addText(&m.slot, n, parseSlot, `a slot is a string, such as "7" or "1..24"`)
	case keyBehind:
		return addText(&m.behind, n, parseAddress, `an address is a string, such as "0000:00:1c.0"`)
	case keyPhysFn:
		return addText(&m.physfn, n, parseAddress, `an address is a string, such as "0000:01:00.0"`)
	case keyNUMA:
		return addNode(&m.numa, n)
	case keyDSN:
		return addDSN(&m.dsn, n)
	}
	return nil
}

// addText reads a string with parse; want says what it should be.
func addText[T any](values *[]T, n *node, parse func(string) (T, error), want string) error {
	if n.kind != stringKind {
		return fmt.Errorf("%s; %s", n.kind, want)
	}
	value, err := parse(n.text)
	if err != nil {
		return err
	}
	*values = append(*values, value)
	return nil
}

// hexAsText makes a string of a bare hex number, with all of its zeros: in a
// class their count has a meaning.
func (n *node) hexAsText() *node {
	if n.kind != integerKind || !strings.HasPrefix(n.raw, "0x") {
		return n
	}
	return &node{kind: stringKind, at: n.at, text: strings.ReplaceAll(n.raw, "_", "")}
}

// addID reads a vendor or device ID. A decimal number is refused: who writes
// vendor = 8086 means 0x8086, and would get 0x1f96.
func addID(values *[]pci.ID, n *node) error {
	if keys := pairKeys(n.text, keyVendor, keyDevice); keys != "" {
		return errors.New("these are two IDs" + didYouMean(keys))
	}
	if meant, ok := hexID(n.text); ok {
		return fmt.Errorf("a string, where an ID should be; did you mean %s?", meant)
	}
	if n.kind != integerKind {
		return fmt.Errorf("%s, where an ID should be, such as 0x144d", n.kind)
	}
	id, err := strconv.ParseInt(n.raw, 0, 64)
	if err != nil || id < 0 || id > 0xffff {
		return errors.New("an ID goes from 0x0000 to 0xffff")
	}
	if !strings.HasPrefix(n.raw, "0x") {
		if meant, ok := hexID(n.raw); ok {
			return fmt.Errorf("write an ID in hex; did you mean %s?", meant)
		}
		return fmt.Errorf("write an ID in hex: this number is %s", pci.ID(id))
	}
	*values = append(*values, pci.ID(id))
	return nil
}

// hexID reads digits as the hex number that was probably meant.
func hexID(s string) (pci.ID, bool) {
	n, err := strconv.ParseUint(trimHexPrefix(s), 16, 16)
	return pci.ID(n), err == nil
}
