package policy

import (
	"bytes"
	"errors"
	"fmt"
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// maxFile is the size from which on a file is no policy.
const maxFile = 1 << 20

// document is the text of one file as a tree that remembers where everything
// stands. go-toml's own decoder stops at the first fault; the tree has them all.
type document struct {
	name   string
	data   []byte
	lines  []int // where each line starts
	root   *node
	bad    int // where the last syntax error stands
	faults []Fault
}

// readDocument reads the text of a file. What go-toml would refuse leaves a
// fault behind, and the tree holds what could be read.
func readDocument(name string, data []byte) *document {
	d := &document{name: name, data: data, root: newTable(span{})}
	if len(data) > maxFile {
		d.faults = append(d.faults, Fault{File: name, Message: "larger than 1 MiB: this is not a policy"})
		return d
	}
	d.lines = lineStarts(data)
	if i := invalidUTF8(data); i >= 0 {
		d.fault(span{i, i + 1}, "not UTF-8: save the file as UTF-8")
		return d
	}
	if bytes.HasPrefix(data, []byte("\ufeff")) {
		d.fault(span{0, 3}, "a byte order mark: save the file as UTF-8 without one")
		return d
	}
	d.parse()
	return d
}

// parse builds the tree. After a syntax error it goes on at the next [[rule]], so
// that one missing quote does not hide the faults of the other rules.
func (d *document) parse() {
	b := builder{document: d, current: d.root}
	var parser unstable.Parser
	for start := 0; start >= 0; {
		b.base = start
		parser.Reset(d.data[start:])
		for parser.NextExpression() {
			b.expression(parser.Expression())
		}
		err := parser.Error()
		if err == nil {
			return
		}
		bad := d.syntaxFault(&parser, start, err)
		b.interrupt(span{bad, bad})
		start = d.nextRule(start, bad)
	}
}

// nextRule gives the offset of a line that starts a rule: the first from the line
// of the syntax error at bad on, but after start, where the parser began. It
// gives -1 if there is none.
func (d *document) nextRule(start, bad int) int {
	const header = "[[" + ruleTable + "]]"
	line := bytes.LastIndexByte(d.data[:bad], '\n') + 1
	for line >= 0 && line < len(d.data) {
		if line > start && bytes.HasPrefix(bytes.TrimLeft(d.data[line:], " \t"), []byte(header)) {
			return line
		}
		end := bytes.IndexByte(d.data[line:], '\n')
		if end < 0 {
			return -1
		}
		line += end + 1
	}
	return -1
}

// check lets go-toml have the last word on a document without faults: its decoder
// knows rules of TOML that the tree does not.
func (d *document) check() {
	var ignored map[string]any
	err := toml.Unmarshal(d.data, &ignored)
	if err == nil {
		return
	}
	at := 0
	var decode *toml.DecodeError
	if errors.As(err, &decode) {
		line, column := decode.Position()
		at = d.lines[line-1] + column - 1
	}
	d.faultInLine(at, strings.TrimPrefix(err.Error(), "toml: "))
}

// syntaxFault notes err, on which a parser gave up that had begun at the offset
// start, and gives its offset.
func (d *document) syntaxFault(parser *unstable.Parser, start int, err error) int {
	var syntax *unstable.ParserError
	if !errors.As(err, &syntax) {
		d.faultInLine(start, err.Error())
		return start
	}
	at := start + int(parser.Range(syntax.Highlight).Offset)
	if start == 0 || at != d.bad { // else a second try at the same [[rule]]
		d.faultInLine(at, plainly(syntax.Message))
	}
	d.bad = at
	return at
}

// plainly says in a policy's words what the parser says of a value that begins
// like none it knows: a name, or hex digits as lspci prints them.
func plainly(message string) string {
	if message == "strings must be quoted" || strings.HasPrefix(message, "expected keyword") || strings.HasSuffix(message, "at start of value") {
		return "a value is a number (hex is written 0x144d), true, false, or text in quotes"
	}
	return message
}

// faultInLine notes that something is wrong at an offset, and shows its line.
func (d *document) faultInLine(at int, message string) {
	line, column := d.place(at)
	d.faults = append(d.faults, Fault{
		File:    d.name,
		Line:    line,
		Column:  column,
		Text:    excerpt(d.line(line)),
		Message: message,
	})
}

// fault notes that something is wrong with the text in at.
func (d *document) fault(at span, format string, args ...any) {
	line, column := d.place(at.from)
	d.faults = append(d.faults, Fault{
		File:    d.name,
		Line:    line,
		Column:  column,
		Text:    excerpt(d.data[at.from:at.to]),
		Message: fmt.Sprintf(format, args...),
	})
}

// place gives line and column of an offset, both from 1.
func (d *document) place(offset int) (line, column int) {
	line = sort.SearchInts(d.lines, offset+1)
	return line, offset - d.lines[line-1] + 1
}

// line gives the text of a line, counted from 1, without the space around it.
func (d *document) line(line int) []byte {
	text, _, _ := bytes.Cut(d.data[d.lines[line-1]:], []byte("\n"))
	return bytes.TrimSpace(text)
}

func lineStarts(data []byte) []int {
	starts := []int{0}
	for i, c := range data {
		if c == '\n' {
			starts = append(starts, i+1)
		}
	}
	return starts
}

func invalidUTF8(data []byte) int {
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return -1
}
