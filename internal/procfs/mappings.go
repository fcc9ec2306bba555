package procfs

import (
	"bufio"
	"bytes"
	"os"
)

// Mapping is a file that a process has mapped into its memory. A mapping
// outlives the descriptor that it was made by.
type Mapping struct {
	// File tells one file from another: its device, inode and path.
	File string
	// Link leads to the file, for whoever has CAP_SYS_ADMIN.
	Link string
}

// Mappings gives the files that a process has mapped, each once: none of a
// process that has ended.
//
// The kernel writes a line for each piece of memory, so that it takes longer
// than all else that there is to read of a large process.
func (d Dir) Mappings(pid int) ([]Mapping, error) {
	process := d.of(pid)
	file, err := os.Open(process + "/maps")
	if err != nil {
		return nil, unlessEnded(err)
	}
	defer file.Close()
	var all []Mapping
	seen := map[string]bool{}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		at, name := parseMapping(lines.Bytes())
		if name == nil || seen[string(name)] {
			continue
		}
		m := Mapping{File: string(name), Link: process + "/map_files/" + at}
		seen[m.File] = true
		all = append(all, m)
	}
	return all, unlessEnded(lines.Err())
}

// parseMapping reads a line of maps, such as
//
//	00400000-00452000 r-xp 00000000 08:02 173521  /usr/bin/program
//
// and gives the name that the mapping has in map_files, and what there is from
// the device on; nil for memory that no file is behind (fs/proc/task_mmu.c,
// show_map_vma).
func parseMapping(line []byte) (at string, file []byte) {
	addresses, rest, _ := bytes.Cut(line, []byte(" "))
	_, rest, _ = bytes.Cut(rest, []byte(" ")) // what may be done
	_, file, _ = bytes.Cut(rest, []byte(" ")) // the place in the file
	_, inode, _ := bytes.Cut(file, []byte(" "))
	from, to, dash := bytes.Cut(addresses, []byte("-"))
	if !dash || len(from)*len(to) == 0 || len(inode) == 0 || bytes.HasPrefix(inode, []byte("0 ")) {
		return "", nil
	}
	return unpadded(from) + "-" + unpadded(to), file
}

// unpadded gives a number as map_files writes it: only maps has leading zeros.
func unpadded(address []byte) string {
	return string(bytes.TrimLeft(address[:len(address)-1], "0")) + string(address[len(address)-1:])
}
