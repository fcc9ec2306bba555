package inuse

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Report is what a look has found.
type Report struct {
	Uses       []Use       `json:"uses,omitempty"`
	Signatures []Signature `json:"signatures,omitempty"`
	// Doubts are what had to be checked and could not be.
	Doubts []Doubt `json:"doubts,omitempty"`
	// Unchecked are what nobody can check. They are no veto.
	Unchecked []string `json:"unchecked,omitempty"`

	blank bool // signatures were looked for on every disk
	// Where the end of a use may show: the device's own nodes, by a closing, and
	// the directories of its exports.
	nodes, exports []string
	traces         []trace // by which Still knows the uses again
}

// Kind is what a device is used for.
type Kind string

// The kinds of use.
const (
	Mount   Kind = "mount"   // a mounted file system
	Swap    Kind = "swap"    // swap space
	Holder  Kind = "holder"  // part of another block device
	Claim   Kind = "claim"   // something that only the exclusive open shows
	Network Kind = "network" // a network interface that is up
	Open    Kind = "open"    // a program that holds its node open
	Memory  Kind = "memory"  // memory of it is the machine's
	Export  Kind = "export"  // given to other machines by nvmet or LIO
	Named   Kind = "named"   // not used now, but somebody has put its name down for use
)

// Use is one use of a device: the chain from one of its parts to the user.
type Use struct {
	Kind  Kind     `json:"kind"`
	Chain []string `json:"chain"`
}

// String gives the chain, such as "nvme1n1p2 → md0 → /srv".
func (u Use) String() string { return strings.Join(u.Chain, " → ") }

// Remedy is what would end the use.
func (u Use) Remedy() string {
	last := u.Chain[len(u.Chain)-1]
	switch u.Kind {
	case Mount:
		return "umount " + last
	case Swap:
		return "swapoff /dev/" + nodeName(u.Chain[len(u.Chain)-2])
	case Network:
		return "ip link set " + u.Chain[0] + " down"
	case Open:
		return "stop that program"
	case Memory:
		return "take that memory offline: cxl list -vvv; daxctl list"
	case Export:
		return "end that export: nvmetcli, targetcli"
	case Named:
		return "if that is out of date, take it out there"
	case Holder:
		if strings.HasPrefix(last, "loop") {
			return "losetup --detach /dev/" + last
		}
	}
	return "see what is built on it: lsblk /dev/" + u.disk()
}

// disk is the node of the disk that is used, or of the partition: it stands
// second where it is not of the device's own controller.
func (u Use) disk() string {
	if len(u.Chain) > 1 && namespaceNode.MatchString(u.Chain[1]) {
		return u.Chain[1]
	}
	return nodeName(u.Chain[0])
}

var namespaceNode = regexp.MustCompile(`^nvme\d+n\d+(p\d+)?$`)

// nodeName is the name of the node in a link such as "dm-3 (vg-data)".
func nodeName(link string) string {
	name, _, _ := strings.Cut(link, " ")
	return name
}

// Signature is what blkid knows on a disk that nobody uses.
type Signature struct {
	Disk  string `json:"disk"`
	Type  string `json:"type"`            // such as ext4, LVM2_member, or gpt for a partition table
	Label string `json:"label,omitempty"` // "" for none
}

// String says what is where, such as `nvme1n1 carries ext4 "data"`.
func (s Signature) String() string { return s.Disk + " carries " + words(s.Type, s.Label) }

// words gives a type and, quoted, a label.
func words(kind, label string) string {
	if label == "" {
		return kind
	}
	return fmt.Sprintf("%s %q", kind, label)
}

// Doubt is why a device cannot be shown to be free.
type Doubt struct {
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"`
}

// Veto reports whether the device must not be taken.
func (r Report) Veto() bool { return len(r.Uses)+len(r.Signatures)+len(r.Doubts) > 0 }

// Stacked reports whether other block devices are built on the device, or may
// be. When one of them goes or changes, its users may have gone.
func (r Report) Stacked() bool {
	return r.has(func(u Use) bool { return u.Kind == Holder || u.Kind == Claim || len(u.Chain) > 2 })
}

// Claimed reports whether all that stands in the way is a claim that nothing
// shows: its owner may be on the way out, as a file system is that has been
// unmounted and still writes.
func (r Report) Claimed() bool {
	return len(r.Uses) > 0 && len(r.Signatures)+len(r.Doubts) == 0 && !r.has(func(u Use) bool { return u.Kind != Claim })
}

func (r Report) has(what func(Use) bool) bool { return slices.ContainsFunc(r.Uses, what) }

// String gives the report in one line.
func (r Report) String() string {
	var words []string
	for _, u := range r.Uses {
		words = append(words, u.String())
	}
	for _, s := range r.Signatures {
		words = append(words, s.String())
	}
	for _, d := range r.Doubts {
		words = append(words, d.Text)
	}
	switch {
	case len(words) > 0:
	case len(r.Unchecked) > 0:
		words = append(words, "no use found")
	case r.blank:
		words = append(words, "unused and blank")
	default:
		words = append(words, "unused")
	}
	for _, u := range r.Unchecked {
		words = append(words, "not checked: "+u)
	}
	return strings.Join(words, "; ")
}

// Remedy is what would lift the first veto, "" where there is none.
func (r Report) Remedy() string {
	switch {
	case len(r.Uses) > 0:
		return r.Uses[0].Remedy()
	case len(r.Signatures) > 0:
		return fmt.Sprintf("if its data may go: wipefs --all /dev/%s; or say takeover = \"idle\"", r.Signatures[0].Disk)
	case len(r.Doubts) > 0:
		return r.Doubts[0].Remedy
	}
	return ""
}

func (r *Report) use(kind Kind, chain ...string) {
	use := Use{Kind: kind, Chain: make([]string, len(chain))}
	for i, link := range chain {
		use.Chain[i] = printable(link)
	}
	r.Uses = append(r.Uses, use)
}

// trace notes where a use shows that has been noted.
func (r *Report) trace(t trace) { r.traces = append(r.traces, t) }

func (r *Report) doubt(remedy, format string, a ...any) {
	r.Doubts = append(r.Doubts, Doubt{Text: oneLine(fmt.Sprintf(format, a...)), Remedy: remedy})
}

func (r *Report) unchecked(format string, a ...any) {
	r.Unchecked = append(r.Unchecked, oneLine(fmt.Sprintf(format, a...)))
}

// printable gives a name as it is, quoted if a terminal or a log could take it
// for more than a name: a mount point may contain line feeds.
func printable(name string) string {
	if strings.ContainsFunc(name, unicode.IsControl) {
		return strconv.Quote(name)
	}
	return name
}

// oneLine makes one line of a text that may have several.
func oneLine(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

// both joins two errors in one line.
func both(a, b error) error {
	if a == nil || b == nil {
		return cmp.Or(a, b)
	}
	return fmt.Errorf("%w; %w", a, b)
}
