package journal

import (
	"encoding/hex"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strconv"
	"strings"
	"testing"
)

// The constants are read from the source, so that none can be forgotten here.
func TestEveryMessageIDIs128BitsItsOwnAndInTheManual(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "message.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	manual, err := os.ReadFile("../../packaging/man/vfio-hotplug.8")
	if err != nil {
		t.Fatal(err)
	}
	owner := map[string]string{}
	for node := range ast.Preorder(file) {
		spec, ok := node.(*ast.ValueSpec)
		if !ok {
			continue
		}
		name := spec.Names[0].Name
		id, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := hex.DecodeString(id); err != nil || len(b) != 16 || strings.ToLower(id) != id {
			t.Errorf("%s = %q: want 32 lower-case hex digits", name, id)
		}
		if other := owner[id]; other != "" {
			t.Errorf("%s and %s are the same: %s", name, other, id)
		}
		owner[id] = name
		if !strings.Contains(string(manual), id) {
			t.Errorf("the manual page does not tell of %s, %s", name, id)
		}
	}
	if len(owner) < 10 {
		t.Errorf("found %d message IDs in message.go, want at least 10", len(owner))
	}
}
