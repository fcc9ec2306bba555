package policy

import "fmt"

// guardTable is the name of the table about the guard.
const guardTable = "guard"

// guardSetting is what a [guard] table said, and where.
type guardSetting struct {
	mode  GuardMode
	place string // file:line, "" while no file has said anything
}

// guardTable reads a [guard].
func (c *compiler) guardTable(n *node) {
	if n.kind == listKind && n.headed {
		c.fault(n.at, "there is one guard: write [%s], in single brackets", guardTable)
		return
	}
	if !c.isTable(n) {
		return
	}
	for _, e := range n.entries {
		switch {
		case e.name == "mode":
			c.guardMode(e.value)
		case nearest(e.name, "mode") != "":
			c.fault(e.at, "unknown key%s", didYouMean("mode"))
		default:
			c.fault(e.at, "unknown key; [%s] has mode", guardTable)
		}
	}
}

// guardMode reads the mode. All files that name one name the same.
func (c *compiler) guardMode(n *node) {
	var mode GuardMode
	if !choose(c, n, &mode, guardModes()...) {
		return
	}
	if c.guard.place != "" {
		if c.guard.mode != mode {
			c.fault(n.at, "the mode is %q at %s already", c.guard.mode, c.guard.place)
		}
		return
	}
	line, _ := c.document.place(n.at.from)
	*c.guard = guardSetting{mode: mode, place: fmt.Sprintf("%s:%d", c.document.name, line)}
}
