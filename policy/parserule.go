package policy

import (
	"strconv"
	"strings"
	"unicode"
)

// ruleKeys are the keys of a [[rule]].
func ruleKeys() []string {
	return []string{"name", "match", "action", "driver", "takeover", "group", "guard", "vmd"}
}

// rule compiles one [[rule]].
func (c *compiler) rule(table *node) Rule {
	r := Rule{Action: Bind, Driver: VFIO, Guard: true, File: c.document.name}
	r.Line, _ = c.document.place(table.at.from)
	for _, e := range table.entries {
		c.ruleKey(&r, e, table)
	}
	for _, key := range []string{"name", "match"} {
		if table.get(key) == nil && !table.cut {
			c.fault(table.at, "the rule has no %s", key)
		}
	}
	if e := table.get("match"); e != nil && r.Action == Bind {
		c.bindable(&r.match, e.value)
	}
	if e := table.get("group"); e != nil && r.Group == With && r.Driver != Auto && !IsVFIO(r.Driver) && r.Driver != "" {
		c.fault(e.at, "%s needs no IOMMU group: group = \"with\" is for the vfio drivers", r.Driver)
	}
	if r.Action == Leave {
		r.Driver = ""
		c.leavesOnly(table)
	}
	r.reason = newReasons(&r)
	return r
}

func (c *compiler) ruleKey(r *Rule, e entry, table *node) {
	switch e.name {
	case "name":
		r.Name = c.ruleName(e.value, table)
	case "match":
		if c.isTable(e.value) {
			r.match = c.match(e.value, false)
		}
	case "action":
		choose(c, e.value, &r.Action, Bind, Leave)
	case "driver":
		r.Driver = c.driver(e.value)
	case "takeover":
		choose(c, e.value, &r.Takeover, Blank, Never, Idle)
	case "group":
		choose(c, e.value, &r.Group, Alone, With)
	case "guard":
		c.boolean(e.value, &r.Guard)
	case "vmd":
		c.boolean(e.value, &r.VMD)
	default:
		c.unknownRuleKey(e)
	}
}

func (c *compiler) unknownRuleKey(e entry) {
	keys, why := elsewhere(e)
	meant := ruleElsewhere(e.name)
	_, isMatchKey := keyNamed(e.name)
	switch near := nearest(e.name, ruleKeys()...); {
	case isMatchKey:
		c.fault(e.at, "this key belongs into match: match = { %s = … }", e.name)
	case meant != "":
		c.fault(e.at, "unknown key%s", didYouMean(meant))
	case near != "":
		c.fault(e.at, "unknown key%s", didYouMean(near))
	case strings.Contains(keys, "="):
		c.fault(e.at, "unknown key%s", didYouMean("match = { "+keys+" }"))
	case keys != "":
		c.fault(e.at, "unknown key%s", didYouMean("match = { "+keys+" = … }"))
	case why != "":
		c.fault(e.at, "unknown key; %s", why)
	default:
		c.fault(e.at, "unknown key; a rule has %s", strings.Join(ruleKeys(), ", "))
	}
}

// leavesOnly finds the settings that make no sense in a rule that leaves.
func (c *compiler) leavesOnly(table *node) {
	why := map[string]string{
		"driver":   "it binds nothing",
		"takeover": "it takes nothing",
		"group":    "it takes nothing",
		"guard":    "it takes nothing",
		"vmd":      "it matches drives behind VMD anyway",
	}
	for _, e := range table.entries {
		if reason, ok := why[e.name]; ok {
			c.fault(e.at, "a rule with action = \"leave\" has no %s: %s", e.name, reason)
		}
	}
}

// bindable finds a match that is right for a rule that leaves, but not for one
// that binds.
func (c *compiler) bindable(m *match, at *node) {
	if len(m.keys) == 1 && m.keys[0] == keyNot {
		c.fault(at.at, "a rule that binds must say what it takes: not alone takes every other device of the machine")
	}
	for _, class := range m.class {
		if !class.onlyBridges() {
			return
		}
	}
	if len(m.class) > 0 {
		c.fault(at.get("class").value.at, "a bridge is never bound")
	}
}

func (c *compiler) ruleName(n *node, table *node) string {
	if !c.is(n, stringKind) {
		return ""
	}
	switch {
	case strings.TrimSpace(n.text) == "":
		c.fault(n.at, "the name of a rule is not empty")
	case strings.TrimSpace(n.text) != n.text:
		c.fault(n.at, "the name of a rule does not start or end with a space")
	case strings.ContainsFunc(n.text, func(r rune) bool { return !unicode.IsPrint(r) }):
		c.fault(n.at, "the name of a rule is made of printable characters")
	case len(n.text) > 100:
		c.fault(n.at, "the name of a rule has at most 100 bytes")
	default:
		c.claim(n, table.at.from)
	}
	return n.text
}

// driver reads the name of a driver as the kernel spells it below
// /sys/bus/pci/drivers.
func (c *compiler) driver(n *node) string {
	if !c.is(n, stringKind) {
		return ""
	}
	known := []string{VFIO, UIO, Auto}
	for _, k := range known {
		if n.text == k {
			return k
		}
		if distance(fold(n.text), fold(k)) <= 1 {
			c.fault(n.at, "no such driver; did you mean %q?", k)
			return ""
		}
	}
	switch {
	case n.text == "":
		c.fault(n.at, "the name of the driver is empty; leave the key out for %q", VFIO)
	case len(n.text) > 64 || strings.ContainsFunc(n.text, notInDriver):
		c.fault(n.at, "the name of a driver is made of letters, digits, - and _, 64 at most")
	}
	return n.text
}

func notInDriver(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
}

// word is a value that a policy file names by its String.
type word interface {
	~uint8
	String() string
}

// choose reads one of the words into what. If it is none of them, it notes the
// fault and gives false.
func choose[W word](c *compiler, n *node, what *W, words ...W) bool {
	if !c.is(n, stringKind) {
		return false
	}
	var names, quoted []string
	for _, w := range words {
		if w.String() == n.text {
			*what = w
			return true
		}
		names = append(names, w.String())
		quoted = append(quoted, strconv.Quote(w.String()))
	}
	if near := nearest(n.text, names...); near != "" {
		c.fault(n.at, "unknown value%s", didYouMean(near))
		return false
	}
	c.fault(n.at, "unknown value; want %s", oneOf(quoted))
	return false
}

// oneOf lists what may be chosen from: a, b or c.
func oneOf(words []string) string {
	last := len(words) - 1
	if last < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

func (c *compiler) boolean(n *node, what *bool) {
	if c.is(n, boolKind) {
		*what = n.raw == "true"
	}
}

func (c *compiler) isTable(n *node) bool { return c.is(n, tableKind) }

// is reports whether n is of the kind want. If it is not, it notes the fault.
func (c *compiler) is(n *node, want kind) bool {
	if n.kind == want {
		return true
	}
	c.fault(n.at, "%s, where %s should be", n.kind, want)
	return false
}
