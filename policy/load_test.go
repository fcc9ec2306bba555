package policy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"vfio-hotplug/internal/pci"
)

// tree makes a source from the names and texts of files.
func tree(path string, files map[string]string) Source {
	m := fstest.MapFS{}
	for name, text := range files {
		m[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return Source{Path: path, FS: m}
}

// takes is a policy of one rule.
func takes(name string) string {
	return "[[rule]]\nname = \"" + name + "\"\nmatch = { slot = \"7\" }\n"
}

func names(p *Policy) string {
	var names []string
	for _, r := range p.Rules() {
		names = append(names, r.Name)
	}
	return strings.Join(names, " ")
}

func TestLoadOrder(t *testing.T) {
	for _, c := range []struct {
		name     string
		etc, lib map[string]string
		want     string // names of rules
		files    string
	}{
		{"nothing at all", nil, nil, "", ""},
		{"policy.toml", map[string]string{"policy.toml": takes("a")}, nil, "a", "/etc/v/policy.toml"},
		{"the vendor's policy.toml, where there is no other", nil, map[string]string{"policy.toml": takes("b")}, "b", "/lib/v/policy.toml"},
		{"only one policy.toml",
			map[string]string{"policy.toml": takes("a")}, map[string]string{"policy.toml": takes("b")},
			"a", "/etc/v/policy.toml"},
		{"drop-ins by name, from everywhere, then policy.toml",
			map[string]string{"policy.toml": takes("z"), "policy.d/20.toml": takes("c"), "policy.d/10-x.toml": takes("b")},
			map[string]string{"policy.toml": takes("y"), "policy.d/15.toml": takes("d"), "policy.d/05.toml": takes("a")},
			"a b d c z", "/lib/v/policy.d/05.toml /etc/v/policy.d/10-x.toml /lib/v/policy.d/15.toml /etc/v/policy.d/20.toml /etc/v/policy.toml"},
		{"one name counts once",
			map[string]string{"policy.d/10.toml": takes("mine")}, map[string]string{"policy.d/10.toml": takes("theirs")},
			"mine", "/etc/v/policy.d/10.toml"},
		{"an empty file hides the vendor's",
			map[string]string{"policy.d/10.toml": "", "policy.toml": ""}, map[string]string{"policy.d/10.toml": takes("theirs"), "policy.toml": takes("more")},
			"", "/etc/v/policy.d/10.toml /etc/v/policy.toml"},
		{"what is hidden may be wrong",
			map[string]string{"policy.d/10.toml": ""}, map[string]string{"policy.d/10.toml": "garbage"},
			"", "/etc/v/policy.d/10.toml"},
		{"other names are no drop-ins",
			map[string]string{"policy.d/10.toml.dpkg-old": "x", "policy.d/README": "x", "policy.d/.#10.toml": "x", "policy.d/10.TOML": "x", "other.toml": "x"}, nil,
			"", ""},
		{"a drop-in called policy.toml is a drop-in",
			map[string]string{"policy.d/policy.toml": takes("a"), "policy.toml": takes("b")}, nil,
			"a b", "/etc/v/policy.d/policy.toml /etc/v/policy.toml"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := Load(tree("/etc/v", c.etc), tree("/lib/v", c.lib))
			if err != nil {
				t.Fatal(err)
			}
			if got := names(p); got != c.want {
				t.Errorf("rules: got %q, want %q", got, c.want)
			}
			if got := strings.Join(p.Files(), " "); got != c.files {
				t.Errorf("files: got %q, want %q", got, c.files)
			}
		})
	}
}

func TestLoadFirstMatchCountsOverFiles(t *testing.T) {
	p, err := Load(tree("/etc/v", map[string]string{"policy.toml": takes("last"), "policy.d/10.toml": takes("first")}))
	if err != nil {
		t.Fatal(err)
	}
	d := pci.Device{Slot: "7"}
	got := p.Decide(&d)
	if got.Reason != `rule "first" (10.toml:1) matches` || got.Rule.File != "/etc/v/policy.d/10.toml" {
		t.Errorf("got %+v in %s", got, got.Rule.File)
	}
}

func TestLoadNamesTheFaultsOfAllFiles(t *testing.T) {
	p, err := Load(
		tree("/etc/v", map[string]string{
			"policy.toml":      takes("twice") + "x = 1\n" + takes("thrice"),
			"policy.d/10.toml": takes("thrice"),
			"policy.d/20.toml": "garbage",
		}),
		tree("/lib/v", map[string]string{
			"policy.d/15.toml": "\n" + takes("twice"),
			"policy.d/30.toml": "[[rule]]\n",
		}))
	want := `/etc/v/policy.d/20.toml:1:7: garbage: expected '=' after key
/lib/v/policy.d/30.toml:1:1: [[rule]]: the rule has no name
/lib/v/policy.d/30.toml:1:1: [[rule]]: the rule has no match
/etc/v/policy.toml:2:8: "twice": the rule at /lib/v/policy.d/15.toml:2 has this name already
/etc/v/policy.toml:4:1: x: unknown key; a rule has name, match, action, driver, takeover, group, guard, vmd
/etc/v/policy.toml:6:8: "thrice": the rule at /etc/v/policy.d/10.toml:1 has this name already`
	if p != nil || err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

// folder makes a folder of this machine from the names and texts of files.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "policy.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLoadFromFolders(t *testing.T) {
	etc := folder(t, map[string]string{"policy.toml": takes("z")})
	lib := folder(t, map[string]string{"policy.toml": takes("y"), "policy.d/10.toml": takes("a"), "policy.d/20.toml": takes("b")})
	if err := os.Symlink("/dev/null", filepath.Join(etc, "policy.d", "10.toml")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../policy.toml", filepath.Join(etc, "policy.d", "30.toml")); err != nil {
		t.Fatal(err)
	}
	_, err := Load(Dir(etc), Dir(lib))
	want := etc + `/policy.toml:2:8: "z": the rule at ` + etc + `/policy.d/30.toml:1 has this name already`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	if err := os.Remove(filepath.Join(etc, "policy.toml")); err != nil {
		t.Fatal(err)
	}
	_, err = Load(Dir(etc), Dir(lib))
	want = etc + `/policy.d/30.toml: cannot be read: no such file or directory`
	if err == nil || err.Error() != want {
		t.Errorf("a dangling link: got\n%v\nwant\n%s", err, want)
	}
	if err := os.Remove(filepath.Join(etc, "policy.d", "30.toml")); err != nil {
		t.Fatal(err)
	}
	p, err := Load(Dir(etc), Dir(lib))
	if err != nil || names(p) != "b y" {
		t.Errorf("a link to /dev/null hides: got %q, %v, want the rules b and y", names(p), err)
	}
}

func TestLoadWithoutFolders(t *testing.T) {
	p, err := Load(Dir(filepath.Join(t.TempDir(), "none")))
	if err != nil || len(p.Rules()) != 0 || len(p.Files()) != 0 {
		t.Errorf("got %v, %v", p, err)
	}
}

func TestLoadOfWhatIsNoFile(t *testing.T) {
	etc := folder(t, map[string]string{"policy.d/30.toml": strings.Repeat("#", 1<<20+1)})
	drop := func(name string) string { return filepath.Join(etc, "policy.d", name) }
	if err := os.Mkdir(drop("10.toml"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(drop("20.toml"), 0o644); err != nil { // opening it would wait for ever
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/zero", drop("40.toml")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("50.toml", drop("50.toml")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(etc, "policy.toml"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := Load(Dir(etc))
	want := strings.Join([]string{
		drop("10.toml") + ": cannot be read: a directory, where a file should be",
		drop("20.toml") + ": cannot be read: not a regular file",
		drop("30.toml") + ": larger than 1 MiB: this is not a policy",
		drop("40.toml") + ": cannot be read: not a regular file",
		drop("50.toml") + ": cannot be read: too many levels of symbolic links",
		etc + "/policy.toml: cannot be read: a directory, where a file should be",
	}, "\n")
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

// forbidden is a file system that denies one name.
type forbidden struct {
	fstest.MapFS
	name string
}

func (f forbidden) Open(name string) (fs.File, error) {
	if name == f.name {
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.EACCES}
	}
	return f.MapFS.Open(name)
}

func (f forbidden) ReadDir(name string) ([]fs.DirEntry, error) {
	if name == f.name {
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.EACCES}
	}
	return f.MapFS.ReadDir(name)
}

func TestLoadOfWhatMustNotBeRead(t *testing.T) {
	for name, want := range map[string]string{
		"policy.toml":      "/etc/v/policy.toml: cannot be read: permission denied",
		"policy.d":         "/etc/v/policy.d: cannot be read: permission denied",
		"policy.d/10.toml": "/etc/v/policy.d/10.toml: cannot be read: permission denied",
	} {
		files := fstest.MapFS{
			"policy.toml":      {Data: []byte(takes("a"))},
			"policy.d/10.toml": {Data: []byte(takes("b"))},
		}
		_, err := Load(Source{Path: "/etc/v", FS: forbidden{files, name}}, tree("/lib/v", map[string]string{"policy.toml": takes("c")}))
		if err == nil || err.Error() != want {
			t.Errorf("got\n%v\nwant\n%s", err, want)
		}
		if !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%v does not unwrap to its errno", err)
		}
	}
}

func TestLoadFiles(t *testing.T) {
	dir := folder(t, map[string]string{"b.toml": takes("b"), "a.toml": takes("a"), "bad.toml": "x\n"})
	p, err := LoadFiles(filepath.Join(dir, "b.toml"), filepath.Join(dir, "a.toml"))
	if err != nil || names(p) != "b a" {
		t.Errorf("got %q, %v", names(p), err)
	}
	if want := []string{dir + "/b.toml", dir + "/a.toml"}; !slices.Equal(p.Files(), want) {
		t.Errorf("files: got %q, want %q", p.Files(), want)
	}
	_, err = LoadFiles(filepath.Join(dir, "bad.toml"), filepath.Join(dir, "none.toml"), filepath.Join(dir, "a.toml"), filepath.Join(dir, "a.toml"), dir)
	want := dir + "/bad.toml:1:2: x: expected '=' after key\n" +
		dir + "/none.toml: cannot be read: no such file or directory\n" +
		dir + `/a.toml:2:8: "a": the rule at ` + dir + "/a.toml:1 has this name already\n" +
		dir + ": cannot be read: a directory, where a file should be"
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestLoadFilesByRelativeName(t *testing.T) {
	t.Chdir(folder(t, map[string]string{"bad.toml": "x\n"}))
	for _, name := range []string{"bad.toml", "./bad.toml", "policy.d/../bad.toml"} {
		_, err := LoadFiles(name)
		if want := name + ":1:2: x: expected '=' after key"; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// A file that was named may be a pipe: <(…) of a shell, or the standard input,
// which may be a socket too (as under ssh).
func TestLoadFilesReadsAPipe(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	go func() {
		if err := os.WriteFile(fifo, []byte(takes("from a pipe")), 0o600); err != nil {
			t.Error(err)
		}
	}()
	if p, err := LoadFiles(fifo); err != nil || names(p) != "from a pipe" {
		t.Errorf("a named pipe: %q, %v", names(p), err)
	}

	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	send(t, w, takes("from a shell"))
	if p, err := LoadFiles(fmt.Sprintf("/dev/fd/%d", r.Fd())); err != nil || names(p) != "from a shell" {
		t.Errorf("an open pipe: %q, %v", names(p), err)
	}
	_ = r.Close()

	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	stdin := os.Stdin
	defer func() { os.Stdin = stdin }()
	os.Stdin = os.NewFile(uintptr(pair[0]), "stdin")
	defer os.Stdin.Close()
	send(t, os.NewFile(uintptr(pair[1]), "client"), takes("from ssh"))
	if p, err := LoadFiles("/dev/stdin"); err != nil || names(p) != "from ssh" {
		t.Errorf("the standard input: %q, %v", names(p), err)
	}
}

func send(t *testing.T, to *os.File, text string) {
	t.Helper()
	_, err := to.WriteString(text)
	if err = errors.Join(err, to.Close()); err != nil {
		t.Fatal(err)
	}
}

// What never ends is no policy.
func TestLoadFilesReadsNoMoreThanAPolicy(t *testing.T) {
	if _, err := LoadFiles("/dev/zero"); err == nil || err.Error() != "/dev/zero: larger than 1 MiB: this is not a policy" {
		t.Errorf("got %v", err)
	}
}
