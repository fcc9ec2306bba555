package apt

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// An Archive is apt with its own lists and its own sources, in a directory of
// its own. The machine's proxy and login settings hold for it too.
type Archive struct {
	dir     string
	options []string
	out     io.Writer
}

// Open makes the directory dir for an Archive that knows nothing but source.
// What apt says goes to out.
func Open(dir string, source Source, out io.Writer) (*Archive, error) {
	sources := filepath.Join(dir, "archive.sources")
	a := &Archive{dir: dir, out: out, options: []string{
		"Dir::Etc::sourcelist=" + sources,
		"Dir::Etc::sourceparts=/dev/null",
	}}
	if err := a.prepare(); err != nil {
		return nil, err
	}
	return a, os.WriteFile(sources, []byte(source.String()), 0o600)
}

// OpenMachine makes the directory dir for an Archive with the sources of this
// machine.
func OpenMachine(dir string, out io.Writer) (*Archive, error) {
	a := &Archive{dir: dir, out: out}
	return a, a.prepare()
}

func (a *Archive) prepare() error {
	for _, dir := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(a.dir, dir), 0o700); err != nil {
			return err
		}
	}
	a.options = append(a.options,
		"Dir::State="+a.dir,
		"Dir::State::status="+filepath.Join(a.dir, "status"),
		"Dir::Cache="+filepath.Join(a.dir, "cache"),
		// The machine's pins are about what to install on it.
		"Dir::Etc::preferences=/dev/null",
		"Dir::Etc::preferencesparts=/dev/null",
		"APT::Default-Release=",
		"APT::Architecture=amd64",
		"Acquire::Languages=none",
		"Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
		"Acquire::Retries=3",
		// apt's unprivileged user cannot reach the cache of root.
		"APT::Sandbox::User=",
	)
	return os.WriteFile(filepath.Join(a.dir, "status"), nil, 0o600)
}

// Update fetches the lists of packages and checks their signatures.
func (a *Archive) Update(ctx context.Context) error {
	cmd := a.command(ctx, "apt-get", "-q", "--error-on=any", "update")
	return run(cmd, a.out)
}

// A Package is what the lists say about one.
type Package struct {
	Name, Version string
	Depends       []string // the names of the first alternatives
}

// Package looks a package up.
func (a *Archive) Package(ctx context.Context, name string) (Package, error) {
	var text bytes.Buffer
	if err := run(a.command(ctx, "apt-cache", "show", "--no-all-versions", name), &text); err != nil {
		return Package{}, err
	}
	all := stanzas(text.String())
	if len(all) == 0 {
		return Package{}, fmt.Errorf("the archive has no package %s", name)
	}
	return Package{Name: all[0]["package"], Version: all[0]["version"], Depends: names(all[0]["depends"])}, nil
}

// names reads a Depends field: "a (= 1) | b, c".
func names(depends string) []string {
	var all []string
	for _, clause := range strings.Split(depends, ",") {
		name := strings.TrimSpace(clause)
		if end := strings.IndexAny(name, " (:|"); end >= 0 {
			name = name[:end]
		}
		if name != "" {
			all = append(all, name)
		}
	}
	return all
}

// Closure gives a package and all those it depends on, directly or not, whose
// name has one of the prefixes.
func (a *Archive) Closure(ctx context.Context, root string, prefixes ...string) ([]Package, error) {
	var found []Package
	seen := map[string]bool{root: true}
	for queue := []string{root}; len(queue) > 0; queue = queue[1:] {
		p, err := a.Package(ctx, queue[0])
		if err != nil {
			return nil, err
		}
		found = append(found, p)
		for _, name := range p.Depends {
			wanted := slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
			if wanted && !seen[name] {
				seen[name] = true
				queue = append(queue, name)
			}
		}
	}
	return found, nil
}

// Unpack fetches packages, checks them against the signed lists, and unpacks
// their files into dir. It keeps no .deb and runs no maintainer script.
func (a *Archive) Unpack(ctx context.Context, dir string, packages ...Package) error {
	debs, err := os.MkdirTemp(a.dir, "debs-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(debs)
	args := []string{"-q", "download"}
	for _, p := range packages {
		args = append(args, p.Name+"="+p.Version)
	}
	fetch := a.command(ctx, "apt-get", args...)
	fetch.Dir = debs
	if err := run(fetch, a.out); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := run(exec.CommandContext(ctx, "dpkg-deb", "--extract", file, dir), a.out); err != nil {
			return err
		}
	}
	return nil
}

func (a *Archive) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	var all []string
	for _, option := range a.options {
		all = append(all, "-o", option)
	}
	cmd := exec.CommandContext(ctx, name, append(all, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	return cmd
}

// run gives a command's standard output to out; the error says in a line what
// it complained about.
func run(cmd *exec.Cmd, out io.Writer) error {
	var complaint bytes.Buffer
	cmd.Stdout = out
	cmd.Stderr = &complaint
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, reason(complaint.String()))
	}
	return nil
}

// reason picks the line that tells most: apt ends with what follows from it.
func reason(complaint string) string {
	lines := strings.Split(strings.TrimSpace(complaint), "\n")
	for _, line := range lines {
		if strings.Contains(line, "Failed to fetch") {
			return line
		}
	}
	return lines[len(lines)-1]
}
