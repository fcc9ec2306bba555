package main

import (
	"fmt"

	"github.com/cilium/ebpf/btf"
)

// offsets say where in the kernel's structures a trace of writes finds what it
// reports, in bytes. The kernel's own description of its types has them.
type offsets struct {
	kiocbFile, fileDentry              int
	dentryName, dentryParent, dentrySB int
	sbMagic                            int
	iterType, iterBuffer, iterCount    int
	userBuffer                         uint64 // the iterType of a plain write(2)
}

func kernelOffsets() (offsets, error) {
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return offsets{}, fmt.Errorf("the kernel's description of its types: %w", err)
	}
	var o offsets
	for _, want := range []struct {
		to    *int
		name  string
		steps []string
	}{
		{&o.kiocbFile, "kiocb", []string{"ki_filp"}},
		{&o.fileDentry, "file", []string{"f_path", "dentry"}},
		{&o.dentryName, "dentry", []string{"d_name", "name"}},
		{&o.dentryParent, "dentry", []string{"d_parent"}},
		{&o.dentrySB, "dentry", []string{"d_sb"}},
		{&o.sbMagic, "super_block", []string{"s_magic"}},
		{&o.iterType, "iov_iter", []string{"iter_type"}},
		{&o.iterBuffer, "iov_iter", []string{"ubuf"}},
		{&o.iterCount, "iov_iter", []string{"count"}},
	} {
		var outer *btf.Struct
		if err := spec.TypeByName(want.name, &outer); err != nil {
			return o, fmt.Errorf("struct %s: %w", want.name, err)
		}
		bits, ok := locate(outer, want.steps)
		if !ok {
			return o, fmt.Errorf("struct %s has no member %v", want.name, want.steps)
		}
		*want.to = int(bits.Bytes())
	}
	o.userBuffer, err = enumValue(spec, "iter_type", "ITER_UBUF")
	return o, err
}

// locate finds a member of a member…, also inside structures and unions that
// have no name.
func locate(t btf.Type, steps []string) (btf.Bits, bool) {
	if len(steps) == 0 {
		return 0, true
	}
	for _, m := range members(t) {
		rest := steps
		switch m.Name {
		case steps[0]:
			rest = steps[1:]
		case "":
		default:
			continue
		}
		if bits, ok := locate(m.Type, rest); ok {
			return m.Offset + bits, true
		}
	}
	return 0, false
}

func members(t btf.Type) []btf.Member {
	switch t := btf.UnderlyingType(t).(type) {
	case *btf.Struct:
		return t.Members
	case *btf.Union:
		return t.Members
	}
	return nil
}

func enumValue(spec *btf.Spec, enum, name string) (uint64, error) {
	var t *btf.Enum
	if err := spec.TypeByName(enum, &t); err != nil {
		return 0, fmt.Errorf("enum %s: %w", enum, err)
	}
	for _, value := range t.Values {
		if value.Name == name {
			return value.Value, nil
		}
	}
	return 0, fmt.Errorf("enum %s has no %s", enum, name)
}
