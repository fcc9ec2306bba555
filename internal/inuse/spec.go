package inuse

import (
	"fmt"
	"path"
	"strings"
	"unicode/utf8"
)

// spec is how a table names a block device (fstab(5)): by a node, or by a tag
// of what is on it.
type spec struct {
	node  string // a path; of a tag, the link that udev makes for it
	tag   string // a key of tagProperty, "" for none
	value string // the tag's, as udev encodes it
}

// tagProperty gives the property of udev, and of blkid -o udev, for each tag.
var tagProperty = map[string]string{
	"UUID":      "ID_FS_UUID_ENC",
	"LABEL":     "ID_FS_LABEL_ENC",
	"PARTUUID":  "ID_PART_ENTRY_UUID",
	"PARTLABEL": "ID_PART_ENTRY_NAME",
}

const links = "/dev/disk/by-"

// parseSpec reads UUID=…, LABEL=…, PARTUUID=…, PARTLABEL=…, ID=… and paths below
// /dev. Anything else is no block device: a server's directory, a file, tmpfs.
func parseSpec(text string) (spec, bool) {
	if tag, value, ok := strings.Cut(text, "="); ok {
		value = encode(strings.Trim(value, `"`))
		s := spec{node: links + strings.ToLower(tag) + "/" + value, tag: tag, value: value}
		if tag == "ID" { // a link of udev's, no tag of blkid's
			return spec{node: s.node}, value != ""
		}
		_, known := tagProperty[tag]
		if known || !strings.HasPrefix(text, "/dev/") {
			return s, known && value != ""
		}
	}
	s := spec{node: path.Clean(text)}
	if !strings.HasPrefix(s.node, "/dev/") {
		return spec{}, false
	}
	if rest, ok := strings.CutPrefix(s.node, links); ok {
		kind, value, _ := strings.Cut(rest, "/")
		if tag := strings.ToUpper(kind); tagProperty[tag] != "" && value != "" {
			s.tag, s.value = tag, value
		}
	}
	return s, true
}

// nodesOf gives the nodes that a file system of several devices is named by, with
// colons between them, and else the text itself. A link's name has colons too.
func nodesOf(text string) []string {
	nodes := strings.Split(text, ":/dev/")
	for i := range nodes[1:] {
		nodes[i+1] = "/dev/" + nodes[i+1]
	}
	return nodes
}

// parseSpecs reads what may name several devices.
func parseSpecs(text string) []spec {
	var specs []spec
	for _, node := range nodesOf(text) {
		if s, ok := parseSpec(node); ok {
			specs = append(specs, s)
		}
	}
	return specs
}

// fits reports whether what is on a block device has the tag.
func (s spec) fits(c contents) bool {
	have := c[tagProperty[s.tag]]
	if s.tag == "" || have == "" {
		return false
	}
	if strings.HasSuffix(s.tag, "UUID") {
		return plainUUID(have) == plainUUID(s.value)
	}
	return have == s.value
}

// plainUUID is a UUID without its punctuation: mdadm writes colons at other
// places than blkid writes hyphens.
func plainUUID(s string) string {
	return strings.ToLower(strings.NewReplacer("-", "", ":", "").Replace(s))
}

// encode writes a value as udev does in properties and in the names of links:
// all but some ASCII and well-formed UTF-8 as \xHH (systemd,
// src/shared/device-nodes.c; util-linux, libblkid/src/encode.c).
func encode(value string) string {
	var b strings.Builder
	for value != "" {
		r, size := utf8.DecodeRuneInString(value)
		switch {
		case size > 1, plain(r):
			b.WriteString(value[:size])
		default:
			fmt.Fprintf(&b, `\x%02x`, value[0])
		}
		value = value[size:]
	}
	return b.String()
}

func plain(r rune) bool {
	return r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || r < utf8.RuneSelf && strings.ContainsRune("#+-.:=@_", r)
}

// decode undoes encode.
func decode(value string) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(value, `\x`)
		b.WriteString(before)
		if !found {
			return b.String()
		}
		var c byte
		if n, _ := fmt.Sscanf(after[:min(2, len(after))], "%02x", &c); n == 1 && len(after) >= 2 {
			b.WriteByte(c)
			after = after[2:]
		} else {
			b.WriteString(`\x`)
		}
		value = after
	}
}
