package policy

import "fmt"

// ruleTable is the name of the tables that a policy is made of.
const ruleTable = "rule"

// Parse reads the text of one policy file. The name stands in for the file in
// rules and faults. An error is Faults: everything that is wrong with the text.
func Parse(name string, data []byte) (*Policy, error) {
	return compile([]file{{name: name, data: data}})
}

// file is the text of a policy file, or why it could not be read.
type file struct {
	name  string
	data  []byte
	fault *Fault
}

// compile makes one policy of all files, in their order.
func compile(files []file) (*Policy, error) {
	var faults Faults
	var rules []Rule
	var read []string
	var guard guardSetting
	names := map[string]string{}
	for _, f := range files {
		read = append(read, f.name)
		if f.fault != nil {
			faults = append(faults, *f.fault)
			continue
		}
		c := compiler{document: readDocument(f.name, f.data), names: names, guard: &guard}
		rules = append(rules, c.tables()...)
		if len(c.document.faults) == 0 {
			c.document.check()
		}
		faults = append(faults, byPlace(c.document.faults)...)
	}
	if len(faults) > 0 {
		return nil, faults
	}
	return newPolicy(rules, guard.mode, read), nil
}

// compiler turns the tree of one file into rules.
type compiler struct {
	document *document
	names    map[string]string // the names of all rules so far, of all files, and their places
	guard    *guardSetting     // of all files so far
}

// fault notes that something is wrong with the text in at.
func (c *compiler) fault(at span, format string, args ...any) {
	c.document.fault(at, format, args...)
}

// tables compiles what it can, and gives the rules. The result counts only if no
// fault was noted.
func (c *compiler) tables() []Rule {
	var rules []Rule
	for _, e := range c.document.root.entries {
		switch e.name {
		case ruleTable:
			rules = c.rules(e.value)
		case guardTable:
			c.guardTable(e.value)
		default:
			c.unknownTable(e)
		}
	}
	return rules
}

func (c *compiler) rules(list *node) []Rule {
	if !c.is(list, listKind) {
		return nil
	}
	var rules []Rule
	for _, item := range list.items {
		if c.is(item, tableKind) {
			rules = append(rules, c.rule(item))
		}
	}
	return rules
}

func (c *compiler) unknownTable(e entry) {
	if near := nearest(e.name, ruleTable, guardTable); near != "" {
		c.fault(e.at, "unknown table or key%s", didYouMean(near))
		if near == ruleTable && e.value.kind == listKind && e.value.headed {
			c.rules(e.value) // for the faults inside
		}
		return
	}
	c.fault(e.at, "unknown table or key; a policy is made of [[%s]] tables and one [%s]", ruleTable, guardTable)
}

// claim takes a name for the rule that starts at the offset header.
func (c *compiler) claim(n *node, header int) {
	line, _ := c.document.place(header)
	place := fmt.Sprintf("%s:%d", c.document.name, line)
	if first, taken := c.names[n.text]; taken {
		c.fault(n.at, "the rule at %s has this name already", first)
		return
	}
	c.names[n.text] = place
}
