package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"vfio-hotplug/internal/vmtest/cache"
)

// Unpacked gives the path of the kernel as an ELF file that QEMU starts by its
// PVH entry. An emulated processor takes up to four seconds to unpack a
// bzImage by itself. A kernel that cannot be started so is an error: boot its
// Image.
func (k Kernel) Unpacked(cacheDir string) (string, error) {
	key, err := cache.FileKey(k.Image)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cacheDir, "pieces", "vmlinux-"+key)
	path := filepath.Join(dir, "vmlinux")
	err = cache.Fill(dir, func(dir string) error {
		image, err := os.ReadFile(k.Image)
		if err != nil {
			return err
		}
		vmlinux, err := unpackImage(image)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, "vmlinux"), vmlinux, 0o600)
	})
	if err != nil {
		return "", fmt.Errorf("unpack %s: %w", k.Image, err)
	}
	return path, nil
}

// The setup header of a bzImage (Documentation/arch/x86/boot.rst).
const (
	setupSectors  = 0x1f1 // one byte; 0 means 4
	headerMagic   = 0x202 // "HdrS"
	headerVersion = 0x206
	payloadOffset = 0x248 // from the end of the setup code
	payloadLength = 0x24c // with the unpacked size, four bytes, at the end
	headerEnd     = 0x250

	payloadSince = 0x0208 // the version that has a payload
)

// unpackers are the programs for a payload that begins so.
var unpackers = [...]struct {
	magic string
	argv  []string
}{
	{"\xfd7zXZ\x00", []string{"xz", "-dc"}},
	{"\x28\xb5\x2f\xfd", []string{"zstd", "-dcq"}},
	{"\x1f\x8b", []string{"gzip", "-dc"}},
}

func unpackImage(image []byte) ([]byte, error) {
	payload, size, err := payload(image)
	if err != nil {
		return nil, err
	}
	for _, u := range unpackers {
		if !bytes.HasPrefix(payload, []byte(u.magic)) {
			continue
		}
		cmd := exec.Command(u.argv[0], u.argv[1:]...)
		cmd.Stdin = bytes.NewReader(payload)
		vmlinux, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", u.argv[0], err)
		}
		if len(vmlinux) != size {
			return nil, fmt.Errorf("%s gave %d bytes, the header promises %d", u.argv[0], len(vmlinux), size)
		}
		return vmlinux, checkPVH(vmlinux)
	}
	return nil, errors.New("no known compression")
}

func payload(image []byte) (packed []byte, size int, err error) {
	if len(image) < headerEnd || string(image[headerMagic:headerMagic+4]) != "HdrS" {
		return nil, 0, errors.New("not a bzImage")
	}
	le := binary.LittleEndian
	if le.Uint16(image[headerVersion:]) < payloadSince {
		return nil, 0, errors.New("a bzImage too old to say where its payload is")
	}
	sectors := uint64(image[setupSectors])
	if sectors == 0 {
		sectors = 4
	}
	start := (sectors+1)*512 + uint64(le.Uint32(image[payloadOffset:]))
	end := start + uint64(le.Uint32(image[payloadLength:]))
	if end > uint64(len(image)) || end < start+4 {
		return nil, 0, errors.New("the payload of the bzImage lies outside of it")
	}
	return image[start : end-4], int(le.Uint32(image[end-4:])), nil
}

// checkPVH looks for the note with the PVH entry (Xen's
// public/elfnote.h, XEN_ELFNOTE_PHYS32_ENTRY).
func checkPVH(vmlinux []byte) error {
	f, err := elf.NewFile(bytes.NewReader(vmlinux))
	if err != nil {
		return err
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_NOTE {
			continue
		}
		notes, err := io.ReadAll(p.Open())
		if err != nil {
			return err
		}
		if hasNote(notes, "Xen\x00", 18) {
			return nil
		}
	}
	return errors.New("the kernel has no PVH entry (CONFIG_PVH)")
}

func hasNote(notes []byte, name string, kind uint32) bool {
	le := binary.LittleEndian
	for len(notes) >= 12 {
		nameSize, dataSize := uint64(le.Uint32(notes)), uint64(le.Uint32(notes[4:]))
		next := 12 + (nameSize+3)&^3 + (dataSize+3)&^3
		if next > uint64(len(notes)) {
			return false
		}
		if le.Uint32(notes[8:]) == kind && string(notes[12:12+nameSize]) == name {
			return true
		}
		notes = notes[next:]
	}
	return false
}
