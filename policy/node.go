package policy

// kind is the type of a value in a policy file.
type kind uint8

const (
	tableKind kind = iota
	listKind
	stringKind
	integerKind
	boolKind
	floatKind
	timeKind
)

// String names the type with its article.
func (k kind) String() string {
	return [...]string{
		tableKind:   "a table",
		listKind:    "a list",
		stringKind:  "a string",
		integerKind: "an integer",
		boolKind:    "true or false",
		floatKind:   "a number with a fraction",
		timeKind:    "a date or a time",
	}[k]
}

// span is a piece of the text: from the offset from up to, without, the offset
// to.
type span struct{ from, to int }

// node is a value and its place.
type node struct {
	kind    kind
	at      span
	raw     string // a scalar as the file writes it
	text    string // a string without its quotes and escapes
	items   []*node
	entries []entry
	index   map[string]int // name to place in entries
	headed  bool           // a table that had its [header], a list made of [[header]]s
	cut     bool           // a table of which a syntax error may hide a part
}

// entry is a key of a table, with its value.
type entry struct {
	name  string
	at    span // the key
	value *node
}

func newTable(at span) *node { return &node{kind: tableKind, at: at} }

// add puts a new key into a table.
func (n *node) add(name string, at span, value *node) {
	if n.index == nil {
		n.index = map[string]int{}
	}
	n.index[name] = len(n.entries)
	n.entries = append(n.entries, entry{name: name, at: at, value: value})
}

// get gives the entry of that name, or nil.
func (n *node) get(name string) *entry {
	if i, ok := n.index[name]; ok {
		return &n.entries[i]
	}
	return nil
}
