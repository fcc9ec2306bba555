package guard

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"vfio-hotplug/internal/pci"
)

// record is what we have changed in the kernel for the guard's sake. It is
// written before each change, so that whoever comes after a crash knows what
// may be there: a stop or the next start takes it back.
type record struct {
	Version int     `json:"version"`
	IDs     []armed `json:"ids,omitempty"`
	// Gate says that drivers_autoprobe was 1 and that we wrote 0.
	Gate bool `json:"gate,omitempty"`
	// Was is what was armed before: what it caught may not have been seen to.
	Was     []past `json:"was,omitempty"`
	WasGate bool   `json:"was_gate,omitempty"`
	// Seen are the devices that were there when the guard was armed, and those
	// that have been seen to since: what they have is not the guard's doing.
	Seen []Seat `json:"seen,omitempty"`
	// Shielded are devices that may bear the override which keeps them from a
	// new ID.
	Shielded []Seat `json:"shielded,omitempty"`
}

// armed is a dynamic ID that we added, or were about to add.
type armed struct {
	Driver string `json:"driver"`
	// Instance tells the driver from one of the same name that a module brought
	// later: its IDs went with it.
	Instance uint64      `json:"instance,string"`
	Pattern  pci.Pattern `json:"pattern"`
	Mark     mark        `json:"mark"`
	// Sure is false between the record and the kernel's answer.
	Sure bool `json:"sure"`
}

// past is a dynamic ID that we added once.
type past struct {
	Driver  string      `json:"driver"`
	Pattern pci.Pattern `json:"pattern"`
}

const recordVersion = 1

// remember has the record know of an ID after it is gone.
func (r *record) remember(a armed) {
	if p := (past{a.Driver, a.Pattern}); !slices.Contains(r.Was, p) {
		r.Was = append(r.Was, p)
	}
}

// read gives the record, an empty one where there is none.
func (g *Guard) read() (record, error) {
	data, err := os.ReadFile(g.file)
	if errors.Is(err, fs.ErrNotExist) {
		return record{Version: recordVersion}, nil
	}
	if err != nil {
		return record{}, fmt.Errorf("read the guard's record: %w", err)
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return record{}, fmt.Errorf("read the guard's record %s: %w: remove it, and look for dynamic IDs by hand", g.file, err)
	}
	if r.Version != recordVersion {
		return record{}, fmt.Errorf("read the guard's record %s: version %d, this program knows %d", g.file, r.Version, recordVersion)
	}
	return r, nil
}

// write puts the record in place whole, or leaves the old one.
func (g *Guard) write(r record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	temp := g.file + ".tmp"
	if err := os.WriteFile(temp, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the guard's record: %w", err)
	}
	if err := os.Rename(temp, g.file); err != nil {
		return fmt.Errorf("write the guard's record: %w", err)
	}
	return nil
}
