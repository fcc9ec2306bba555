package sysfstest

import (
	"path"
	"slices"
	"strings"
	"syscall"
)

type kind int

const (
	directory kind = iota
	file
	link
)

// node is a directory, an attribute or a link. Kernel.mu guards it.
type node struct {
	k        *Kernel
	parent   *node // nil for the root, and for what has been removed
	name     string
	ino      uint64
	kind     kind
	children map[string]*node
	attribute
	to *node // of a link
}

// attribute is what a file does when it is read or written. A nil function
// means that the kernel's mode bits forbid it. Both are called without
// Kernel.mu.
type attribute struct {
	show  func() (string, error)
	store func(value string) error
}

// text is an attribute that never changes.
func text(s string) attribute {
	return attribute{show: func() (string, error) { return s, nil }}
}

func (k *Kernel) newNode(parent *node, name string, kind kind) *node {
	k.inodes++
	n := &node{k: k, parent: parent, name: name, ino: k.inodes, kind: kind}
	if kind == directory {
		n.children = map[string]*node{}
	}
	return n
}

// mkdir makes a directory and those on the way to it. It follows links.
func (n *node) mkdir(name string) *node {
	for part := range strings.SplitSeq(name, "/") {
		next := n.children[part]
		switch {
		case next == nil:
			next = n.k.newNode(n, part, directory)
			n.children[part] = next
		case next.kind == link:
			next = next.to
		}
		n = next
	}
	return n
}

func (n *node) file(name string, a attribute) {
	f := n.k.newNode(n, name, file)
	f.attribute = a
	n.children[name] = f
}

func (n *node) link(name string, to *node) {
	l := n.k.newNode(n, name, link)
	l.to = to
	n.children[name] = l
}

// remove takes a name and all below it out of the tree. Whoever still has it
// open finds it empty.
func (n *node) remove(name string) {
	gone := n.children[name]
	if gone == nil {
		return
	}
	delete(n.children, name)
	gone.bury()
}

func (n *node) bury() {
	for _, child := range n.children {
		child.bury()
	}
	n.children, n.parent = nil, nil
}

// dead: it has been removed.
func (n *node) dead() bool { return n.parent == nil && n != n.k.root }

// path is where the node is below the root: "devices/pci0000:00".
func (n *node) path() string {
	var parts []string
	for ; n != nil && n.parent != nil; n = n.parent {
		parts = append(parts, n.name)
	}
	slices.Reverse(parts)
	return strings.Join(parts, "/")
}

// target is what readlink answers: relative, as sysfs writes it.
func (n *node) target() string {
	up := strings.Repeat("../", strings.Count(n.path(), "/"))
	return up + n.to.path()
}

// walk finds what a name leads to. It follows a link at the end of the name
// only if follow is set.
func (n *node) walk(name string, follow bool) (*node, error) {
	if strings.HasPrefix(name, "/") {
		return nil, syscall.EINVAL
	}
	parts := strings.Split(path.Clean(name), "/")
	for i, part := range parts {
		if n.kind != directory {
			return nil, syscall.ENOTDIR
		}
		if n = n.step(part); n == nil {
			return nil, syscall.ENOENT
		}
		if n.kind == link && (follow || i < len(parts)-1) {
			n = n.to // never a link itself, in sysfs
		}
		if n.dead() && part != "." {
			return nil, syscall.ENOENT
		}
	}
	return n, nil
}

// step gives the node that one part of a name leads to, or nil.
func (n *node) step(part string) *node {
	switch {
	case part == ".":
		return n
	case part != "..":
		return n.children[part]
	case n == n.k.root:
		return n
	}
	return n.parent
}

// Set gives an attribute a fixed, read-only content, and makes it and the
// directories on the way to it where they are missing.
func (k *Kernel) Set(name, content string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.folder(name).file(path.Base(name), text(content))
}

// Mkdir makes a directory and those on the way to it.
func (k *Kernel) Mkdir(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.root.mkdir(name)
}

// Link makes a symbolic link to the directory target, a path below the root.
// It makes the target where it is missing.
func (k *Kernel) Link(name, target string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.folder(name).link(path.Base(name), k.root.mkdir(target))
}

// Remove removes a file, a link or a whole directory.
func (k *Kernel) Remove(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.folder(name).remove(path.Base(name))
}

func (k *Kernel) folder(name string) *node {
	if parent := path.Dir(name); parent != "." {
		return k.root.mkdir(parent)
	}
	return k.root
}
