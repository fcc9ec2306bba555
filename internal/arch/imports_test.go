// Package arch holds the rules of the house as a test: which room may import
// which. ARCHITECTURE.md draws them.
package arch

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "vfio-hotplug/"

// may lists, for each room, the rooms that its program may import. A room that
// stands here with nothing imports no sibling.
var may = map[string][]string{
	"cmd/vfio-hotplug": {"policy", "internal/control", "internal/daemon", "internal/guard", "internal/inuse", "internal/iommu", "internal/journal", "internal/kmod",
		"internal/ledger", "internal/operate", "internal/pci", "internal/sysfs", "internal/uevent"},
	"policy":             {"internal/pci"},
	"internal/arch":      {},
	"internal/bind":      {"internal/sysfs"},
	"internal/control":   {},
	"internal/daemon":    {"policy", "internal/control", "internal/guard", "internal/inuse", "internal/journal", "internal/ledger", "internal/operate", "internal/pci", "internal/sysfs", "internal/uevent"},
	"internal/guard":     {"internal/pci", "internal/sysfs"},
	"internal/inuse":     {"internal/pci", "internal/procfs", "internal/sysfs"},
	"internal/iommu":     {"internal/pci", "internal/sysfs"},
	"internal/journal":   {},
	"internal/kmod":      {"internal/pci"},
	"internal/ledger":    {"internal/pci"},
	"internal/operate":   {"policy", "internal/bind", "internal/guard", "internal/inuse", "internal/iommu", "internal/kmod", "internal/ledger", "internal/pci", "internal/procfs", "internal/sysfs"},
	"internal/pci":       {},
	"internal/procfs":    {},
	"internal/sysfs":     {"internal/pci"},
	"internal/sysfstest": {"internal/pci", "internal/sysfs"},
	"internal/uevent":    {},
}

// never lists packages of the standard library that a room's program must do
// without.
var never = map[string][]string{
	"internal/pci":     {"os", "io/fs", "time", "log/slog"},
	"internal/bind":    {"log", "log/slog"},
	"internal/sysfs":   {"log", "log/slog"},
	"internal/operate": {"log", "log/slog"},
	"internal/ledger":  {"log", "log/slog"},
	"internal/guard":   {"log", "log/slog"},
	"internal/inuse":   {"log", "log/slog"},
	"internal/iommu":   {"log", "log/slog"},
	"internal/kmod":    {"log", "log/slog"},
	"internal/procfs":  {"log", "log/slog"},
	"internal/uevent":  {"log", "log/slog"},
	"internal/control": {"log", "log/slog"},
	"policy":           {"log", "log/slog", "time"},
}

// laboratory is where tests, the demonstration and the proofs live: it may
// import what it tests, and nobody may import it.
const laboratory = "internal/vmtest"

func TestRoomsImportOnlyTheirNeighbours(t *testing.T) {
	for file, imports := range programs(t) {
		room := path.Dir(file)
		if strings.HasPrefix(room, laboratory) {
			continue
		}
		allowed, known := may[room]
		if !known {
			t.Errorf("%s: the room %s is not in the table: put it there and into ARCHITECTURE.md", file, room)
			continue
		}
		for _, name := range imports {
			sibling, ours := strings.CutPrefix(name, module)
			if ours && !slices.Contains(allowed, sibling) {
				t.Errorf("%s imports %s, which %s may not", file, sibling, room)
			}
			if slices.Contains(never[room], name) {
				t.Errorf("%s imports %s, which %s must do without", file, name, room)
			}
		}
	}
}

func TestDecideDoesNoIO(t *testing.T) {
	imports := programs(t)["policy/decide.go"]
	if imports == nil {
		t.Fatal("policy/decide.go is not there: where has Decide gone?")
	}
	for _, name := range imports {
		if slices.Contains([]string{"os", "io", "io/fs", "time", "log"}, name) {
			t.Errorf("policy/decide.go imports %s", name)
		}
	}
}

func TestEveryRoomIsInTheDrawing(t *testing.T) {
	page, err := os.ReadFile("../../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	for room := range may {
		if !strings.Contains(string(page), "`"+room+"`") {
			t.Errorf("ARCHITECTURE.md does not name `%s`", room)
		}
	}
	_, table, _ := strings.Cut(string(page), "\n| room |")
	for _, row := range regexp.MustCompile("(?m)^\\| (`.*?) \\|").FindAllStringSubmatch(table, -1) {
		for room := range strings.SplitSeq(row[1], ", ") {
			if info, err := os.Stat("../../" + strings.Trim(room, "`")); err != nil || !info.IsDir() {
				t.Errorf("ARCHITECTURE.md names %s, which is not there", room)
			}
		}
	}
}

// programs gives the imports of every Go file of the module that is not a test.
func programs(t *testing.T) map[string][]string {
	t.Helper()
	const root = "../.."
	all := map[string][]string{}
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == "testdata" || entry.Name() == "tools" || strings.HasPrefix(entry.Name(), ".") && name != root) {
			return fs.SkipDir
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		file, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		imports := []string{}
		for _, spec := range parsed.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			imports = append(imports, path)
		}
		all[filepath.ToSlash(file)] = imports
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < len(may) {
		t.Fatalf("found only %d files: the walk is broken", len(all))
	}
	return all
}
