package journal

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// kinds gives the constants of message.go, by their value.
func kinds(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "message.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if kind, ok := spec.Type.(*ast.Ident); !ok || kind.Name != "MessageID" {
			t.Errorf("%s has no type MessageID", spec.Names[0])
			return true
		}
		value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		found[value] = spec.Names[0].Name
		return true
	})
	return found
}

// The catalogue explains each kind of message, and nothing else: what has
// happened, and what to do next.
func TestCatalogueExplainsEachKind(t *testing.T) {
	text, err := os.ReadFile("../../packaging/journal/vfio-hotplug.catalog")
	if err != nil {
		t.Fatal(err)
	}
	kinds := kinds(t)
	entries := strings.Split("\n"+string(text), "\n-- ")[1:]
	if len(kinds) < 10 {
		t.Fatalf("only %d kinds were found in message.go", len(kinds))
	}
	for _, entry := range entries {
		id, rest, _ := strings.Cut(entry, "\n")
		name, known := kinds[id]
		if !known {
			t.Errorf("the catalogue explains %s, which is no kind of message, or twice", id)
			continue
		}
		delete(kinds, id)
		head, body, _ := strings.Cut(rest, "\n\n")
		for _, want := range []string{"Subject: ", "Defined-By: vfio-hotplug", "Documentation: man:"} {
			if !strings.Contains(head, want) {
				t.Errorf("%s: no %q in %q", name, want, head)
			}
		}
		if len(strings.Fields(body)) < 15 {
			t.Errorf("%s is hardly explained: %q", name, body)
		}
		for _, field := range regexp.MustCompile(`@([^@\s]*)@`).FindAllStringSubmatch(entry, -1) {
			if !fields[field[1]] {
				t.Errorf("%s: the daemon writes no field %s", name, field[1])
			}
		}
	}
	for id, name := range kinds {
		t.Errorf("the catalogue does not explain %s (%s)", name, id)
	}
}

// fields that the catalogue may put into its sentences: what every message of
// those kinds has.
var fields = map[string]bool{"PCI_ADDRESS": true, "DRIVER": true, "FROM": true, "RULE": true, "REASON": true}
