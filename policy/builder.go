package policy

import (
	"bytes"

	"github.com/pelletier/go-toml/v2/unstable"
)

// builder turns what go-toml's parser reads, line by line, into the tree of a
// document. Dotted keys, [headers], [[headers]] and inline tables that say the
// same make the same tree.
type builder struct {
	document *document
	base     int   // the offset at which the parser began
	current  *node // the table that keys go to
}

// name is one part of a dotted key.
type name struct {
	text string
	at   span
}

func (b *builder) expression(e *unstable.Node) {
	names := b.names(e.Key())
	parents, last := names[:len(names)-1], names[len(names)-1]
	switch e.Kind {
	case unstable.KeyValue:
		b.keyValue(b.current, e)
	case unstable.Table:
		b.current = b.tableHeader(b.walk(b.document.root, parents), last)
	case unstable.ArrayTable:
		b.current = b.listHeader(b.walk(b.document.root, parents), last)
	}
}

// interrupt ends the table that a syntax error stands in, and the rule. What they
// miss may stand in the part that was not read, and is no fault of theirs.
func (b *builder) interrupt(at span) {
	b.current.cut = true
	if e := b.document.root.get(ruleTable); e != nil && len(e.value.items) > 0 {
		e.value.items[len(e.value.items)-1].cut = true
	}
	b.current = newTable(at)
}

// keyValue puts a key and its value into table or, if the key is dotted, into a
// table below it.
func (b *builder) keyValue(table *node, e *unstable.Node) {
	names := b.names(e.Key())
	last := names[len(names)-1]
	end := b.base + int(e.Raw.Offset+e.Raw.Length)
	value := b.value(e.Value(), span{b.valueStart(last.at.to), end})
	table = b.walk(table, names[:len(names)-1])
	if b.free(table, last) {
		table.add(last.text, last.at, value)
	}
}

// tableHeader enters [parent.last].
func (b *builder) tableHeader(parent *node, last name) *node {
	at := b.header(last)
	if parent == b.document.root && last.text == ruleTable {
		b.document.fault(at, "a rule starts with [[%s]], in double brackets", ruleTable)
		return b.listHeader(parent, last) // as it was meant
	}
	e := parent.get(last.text)
	if e == nil {
		table := newTable(at)
		table.headed = true
		parent.add(last.text, at, table)
		return table
	}
	if e.value.kind == tableKind && !e.value.headed {
		e.value.headed = true
		return e.value
	}
	b.twice(at, last.text, e)
	return newTable(at)
}

// listHeader enters a new table of [[parent.last]].
func (b *builder) listHeader(parent *node, last name) *node {
	at := b.header(last)
	table := newTable(at)
	e := parent.get(last.text)
	switch {
	case e == nil:
		parent.add(last.text, at, &node{kind: listKind, at: at, headed: true, items: []*node{table}})
	case e.value.kind == listKind && e.value.headed:
		e.value.items = append(e.value.items, table)
	default:
		b.twice(at, last.text, e)
	}
	return table
}

// walk goes down from table along names, and makes the tables that are not there
// yet. Where the way is barred it notes the fault and gives a table that is part
// of nothing.
func (b *builder) walk(table *node, names []name) *node {
	for _, n := range names {
		e := table.get(n.text)
		if e == nil {
			table.add(n.text, n.at, newTable(n.at))
			e = table.get(n.text)
		}
		table = e.value
		if table.kind == listKind && table.headed {
			table = table.items[len(table.items)-1]
		}
		if table.kind != tableKind {
			b.twice(n.at, n.text, e)
			return newTable(n.at)
		}
	}
	return table
}

// free reports whether table has no key n yet. If it has one, it notes the fault.
func (b *builder) free(table *node, n name) bool {
	e := table.get(n.text)
	if e == nil {
		return true
	}
	b.twice(n.at, n.text, e)
	return false
}

func (b *builder) twice(at span, key string, first *entry) {
	line, _ := b.document.place(first.at.from)
	b.document.fault(at, "%s is already set in line %d", excerpt(key), line)
}

// value copies a value, which stands in at, out of the parser, whose memory the
// next line reuses.
func (b *builder) value(v *unstable.Node, at span) *node {
	switch v.Kind {
	case unstable.InlineTable:
		n := newTable(at)
		n.headed = true
		for it := v.Children(); it.Next(); {
			b.keyValue(n, it.Node())
		}
		return n
	case unstable.Array:
		n := &node{kind: listKind, at: at}
		for it := v.Children(); it.Next(); {
			n.items = append(n.items, b.item(it.Node(), at))
		}
		return n
	}
	return b.scalar(v)
}

// item copies a value out of a list, of which go-toml says where a table starts,
// but not where a list does: that is given the place of the outer list.
func (b *builder) item(v *unstable.Node, list span) *node {
	if v.Kind == unstable.InlineTable {
		return b.value(v, b.span(v.Raw))
	}
	return b.value(v, list)
}

func (b *builder) scalar(v *unstable.Node) *node {
	at := b.span(v.Raw)
	n := &node{at: at, raw: string(b.document.data[at.from:at.to])}
	switch v.Kind {
	case unstable.String:
		n.kind = stringKind
		n.text = string(v.Data)
	case unstable.Integer:
		n.kind = integerKind
	case unstable.Bool:
		n.kind = boolKind
	case unstable.Float:
		n.kind = floatKind
	default:
		n.kind = timeKind
	}
	return n
}

func (b *builder) names(it unstable.Iterator) []name {
	var names []name
	for it.Next() {
		n := it.Node()
		names = append(names, name{text: string(n.Data), at: b.span(n.Raw)})
	}
	return names
}

func (b *builder) span(r unstable.Range) span {
	return span{b.base + int(r.Offset), b.base + int(r.Offset+r.Length)}
}

// valueStart gives the offset of the value of a key that ends at the offset end:
// go-toml does not say where a list starts.
func (b *builder) valueStart(end int) int {
	rest := b.document.data[end:]
	value := bytes.TrimLeft(rest, " \t=")
	return end + len(rest) - len(value)
}

// header gives the place of the [header] or [[header]] that ends in n: from the
// bracket on, for the eye, to the end of the name and its brackets.
func (b *builder) header(n name) span {
	data := b.document.data
	from := bytes.LastIndexByte(data[:n.at.from], '\n') + 1
	from += len(data[from:]) - len(bytes.TrimLeft(data[from:], " \t"))
	to := n.at.to
	for to < len(data) && bytes.IndexByte([]byte(" \t]"), data[to]) >= 0 {
		to++
	}
	return span{from, from + len(bytes.TrimRight(data[from:to], " \t"))}
}
