package inuse

import (
	"fmt"
	"slices"
	"strings"
)

// entry is a line of a table, or a word of the kernel's command line, that
// names a block device for use at the next boot, or when somebody says so.
type entry struct {
	spec
	place string // such as "/etc/fstab line 3"
	text  string // such as "UUID=1234-ABCD on /srv"
	point string // where it is to be mounted, "" for nowhere
	// spare says that the boot goes on without it.
	spare bool

	device device
	there  bool // node leads to device
	found  bool // what is named is there, under whatever name
}

// String is the entry as the end of a chain.
func (e entry) String() string { return e.place + ": " + e.text }

// parseFstab reads fstab(5).
func parseFstab(table string) ([]entry, error) {
	return parseTable("/etc/fstab", table, func(fields []string) (string, entry) {
		e := entry{text: fields[0] + " on " + unescape(fields[1])}
		switch {
		case len(fields) > 2 && fields[2] == "swap":
			e.text = fields[0] + " as swap"
		case strings.HasPrefix(fields[1], "/"):
			e.point = unescape(fields[1])
		}
		return fields[0], e
	})
}

// parseCrypttab reads crypttab(5).
func parseCrypttab(table string) ([]entry, error) {
	return parseTable("/etc/crypttab", table, func(fields []string) (string, entry) {
		return fields[1], entry{text: fields[1] + " as " + fields[0]}
	})
}

// parseTable reads the lines of a table of two fields and more, of which the
// fourth has options. What parse gives of one is what it says of the device, and
// the rest. Shorter lines are an error; the others are read.
func parseTable(name, table string, parse func(fields []string) (string, entry)) ([]entry, error) {
	var entries []entry
	var err error
	number := 0
	for line := range strings.Lines(table) {
		number++
		place := fmt.Sprintf("%s line %d", name, number)
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) < 2 {
			err = both(err, fmt.Errorf("%s is %s", place, fields[0]))
			continue
		}
		named, e := parse(fields)
		e.place = place
		if len(fields) > 3 {
			options := strings.Split(fields[3], ",")
			e.spare = slices.Contains(options, "noauto") || slices.Contains(options, "nofail")
		}
		for _, e.spec = range parseSpecs(unescape(named)) {
			entries = append(entries, e)
		}
	}
	return entries, err
}

// bootWords are the words of the kernel's command line that name a block
// device, to the kernel, systemd, dracut or initramfs-tools
// (kernel-command-line(7), dracut.cmdline(7)), and how fstab would say it.
var bootWords = map[string]func(value string) string{
	"root":             rootSpec,
	"resume":           rootSpec,
	"mount.usr":        rootSpec,
	"luks.uuid":        luksSpec,
	"rd.luks.uuid":     luksSpec,
	"luks.name":        luksSpec,
	"rd.luks.name":     luksSpec,
	"rd.luks.partuuid": func(value string) string { return "PARTUUID=" + value },
	"rd.md.uuid":       func(value string) string { return "UUID=" + value },
	"rd.lvm.lv":        func(value string) string { return "/dev/" + value },
	"cryptdevice": func(value string) string {
		device, _, _ := strings.Cut(value, ":")
		return device
	},
}

// rootSpec undoes what only the kernel writes (block/early-lookup.c):
// PARTUUID=…/PARTNROFF=1 for another partition of the same disk, and 259:1.
func rootSpec(value string) string {
	if strings.HasPrefix(value, "PARTUUID=") {
		value, _, _ = strings.Cut(value, "/")
	}
	if _, err := parseNumber(value); err == nil {
		return numberLinks + value
	}
	return value
}

// luksSpec takes a UUID, with or without "luks-" before it or "=name" behind.
func luksSpec(value string) string {
	id, _, _ := strings.Cut(strings.TrimPrefix(value, "luks-"), "=")
	return "UUID=" + id
}

const commandLine = "kernel command line"

// parseCommandLine reads the kernel's.
func parseCommandLine(line string) ([]entry, error) {
	var entries []entry
	for word := range strings.FieldsSeq(line) {
		word = strings.ReplaceAll(word, `"`, "")
		key, value, _ := strings.Cut(word, "=")
		say, ok := bootWords[key]
		if !ok {
			continue
		}
		for _, s := range parseSpecs(say(value)) {
			entries = append(entries, entry{spec: s, place: commandLine, text: word})
		}
	}
	return entries, nil
}
