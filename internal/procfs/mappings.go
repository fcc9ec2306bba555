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
func (d Dir) Mappings(pid int, follow func(file, link string) error) error {
	m := mappings{follow: follow, seen: map[string]bool{}}
	for attempt := range attempts {
		m.missed = nil
		if err := d.readMemory(pid, m.look); err != nil {
			return err
		}
		// While a process ends the kernel answers EACCES, which the next reading tells
		// from a refusal.
		if fault := m.fault(); fault == nil || attempt > 0 && !Ended(fault) {
			return fault
		}
	}
	return ErrRestless
}

// mappings are what has been seen of the files that a process has mapped.
type mappings struct {
	follow func(file, link string) error
	seen   map[string]bool
	missed []missed // in the reading that goes on
}

type missed struct {
	file string
	err  error
}

// look looks at one mapping, unless the file has been seen.
func (m *mappings) look(process string, line []byte) {
	at, name := parseMapping(line)
	if name == nil || m.seen[string(name)] {
		return
	}
	file := string(name)
	if err := m.follow(file, process+"/map_files/"+at); err != nil {
		m.missed = append(m.missed, missed{file, err})
		return
	}
	m.seen[file] = true
}

// fault gives the first fault of a file that has not been seen, one that is more
// than that a mapping has changed before others; nil where all have been seen.
func (m *mappings) fault() (fault error) {
	for _, missed := range m.missed {
		if !m.seen[missed.file] && (fault == nil || Ended(fault) && !Ended(missed.err)) {
			fault = missed.err
		}
	}
	return fault
}

// readMemory calls each for every line of a process's maps. A thread that has ended
// has no memory left, the first one neither; the others have it still, and the
// kernel shows each under its own number too (fs/proc/base.c, proc_pid_lookup).
func (d Dir) readMemory(pid int, each func(process string, line []byte)) error {
	some, err := readMaps(d.of(pid), each)
	if some || err != nil {
		return err
	}
	threads, err := d.threads(pid)
	for _, thread := range threads {
		if thread == pid {
			continue
		}
		if some, fault := readMaps(d.of(thread), each); some || fault != nil {
			return fault
		}
	}
	return err
}

func readMaps(process string, each func(process string, line []byte)) (some bool, err error) {
	file, err := os.Open(process + "/maps")
	if err != nil {
		return false, unlessEnded(err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		some = true
		each(process, lines.Bytes())
	}
	return some, unlessEnded(lines.Err())
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
