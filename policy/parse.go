package policy

import "fmt"

// ruleTable is the name of the only table of a policy file.
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
	names := map[string]string{}
	for _, f := range files {
		read = append(read, f.name)
		if f.fault != nil {
			faults = append(faults, *f.fault)
			continue
		}
		c := compiler{document: readDocument(f.name, f.data), names: names}
		rules = append(rules, c.rules()...)
		if len(c.document.faults) == 0 {
			c.document.check()
		}
		faults = append(faults, byPlace(c.document.faults)...)
	}
	if len(faults) > 0 {
		return nil, faults
	}
	return newPolicy(rules, read), nil
}

// compiler turns the tree of one file into rules.
type compiler struct {
	document *document
	names    map[string]string // the names of all rules so far, of all files, and their places
}

// fault notes that something is wrong with the text in at.
func (c *compiler) fault(at span, format string, args ...any) {
	c.document.fault(at, format, args...)
}

// rules compiles what it can. The result counts only if no fault was noted.
func (c *compiler) rules() []Rule {
	var rules []Rule
	for _, e := range c.document.root.entries {
		if e.name != ruleTable {
			c.fault(e.at, "unknown table or key; a policy is made of [[%s]] tables", ruleTable)
			continue
		}
		if !c.is(e.value, listKind) {
			continue
		}
		for _, item := range e.value.items {
			if c.is(item, tableKind) {
				rules = append(rules, c.rule(item))
			}
		}
	}
	return rules
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
