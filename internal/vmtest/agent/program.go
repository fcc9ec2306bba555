package main

import (
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// The registers of x86-64 that hold a function's first two arguments, where
// struct pt_regs keeps them (arch/x86/include/asm/ptrace.h).
const (
	firstArgument  = 112 // di
	secondArgument = 104 // si
)

// program gives the eBPF program that puts a record into the ring for every
// call of kernfs_fop_write_iter(struct kiocb *, struct iov_iter *), which all
// writes to a kernfs enter (fs/kernfs/file.c). What finds no room is counted in
// the one value of lost.
func (o offsets) program(ring, lost *ebpf.Map) asm.Instructions {
	const (
		kiocb, iter, out = asm.R6, asm.R7, asm.R8
		pointer          = -8 // a place on the stack
	)
	follow := func(from asm.Register, at int) asm.Instructions {
		return append(read(asm.RFP, pointer, 8, from, at), asm.LoadMem(asm.R9, asm.RFP, pointer, asm.DWord))
	}
	parts := []asm.Instructions{
		{
			asm.LoadMem(kiocb, asm.R1, firstArgument, asm.DWord),
			asm.LoadMem(iter, asm.R1, secondArgument, asm.DWord),
			asm.LoadMapPtr(asm.R1, ring.FD()),
			asm.Mov.Imm(asm.R2, recordSize),
			asm.Mov.Imm(asm.R3, 0),
			asm.FnRingbufReserve.Call(),
			asm.JEq.Imm(asm.R0, 0, "full"),
			asm.Mov.Reg(out, asm.R0),

			asm.FnGetCurrentPidTgid.Call(),
			asm.StoreMem(out, recordThread, asm.R0, asm.DWord),
			asm.FnKtimeGetNs.Call(),
			asm.StoreMem(out, recordTime, asm.R0, asm.DWord),
			asm.Mov.Reg(asm.R1, out),
			asm.Add.Imm(asm.R1, recordCommand),
			asm.Mov.Imm(asm.R2, commandSize),
			asm.FnGetCurrentComm.Call(),

			asm.Mov.Imm(asm.R0, 0),
			asm.StoreMem(out, recordType, asm.R0, asm.DWord),
		},
		read(out, recordType, 1, iter, o.iterType),
		read(out, recordWritten, 8, iter, o.iterCount),
		follow(iter, o.iterBuffer),
		{
			asm.LoadMem(asm.R2, out, recordWritten, asm.DWord),
			asm.JLE.Imm(asm.R2, dataSize, "fits"),
			asm.Mov.Imm(asm.R2, dataSize),
			asm.Mov.Reg(asm.R1, out).WithSymbol("fits"),
			asm.Add.Imm(asm.R1, recordData),
			asm.Mov.Reg(asm.R3, asm.R9),
			asm.FnProbeReadUser.Call(),
			asm.StoreMem(out, recordFault, asm.R0, asm.DWord),
		},
		follow(kiocb, o.kiocbFile),
		follow(asm.R9, o.fileDentry),
		{asm.StoreMem(asm.RFP, 2*pointer, asm.R9, asm.DWord)},
		follow(asm.R9, o.dentrySB),
		read(out, recordMagic, 8, asm.R9, o.sbMagic),
		{asm.LoadMem(asm.R9, asm.RFP, 2*pointer, asm.DWord)},
	}
	for level := range levels {
		parts = append(parts,
			read(asm.RFP, pointer, 8, asm.R9, o.dentryName),
			asm.Instructions{
				asm.Mov.Reg(asm.R1, out),
				asm.Add.Imm(asm.R1, int32(recordNames+level*nameSize)),
				asm.Mov.Imm(asm.R2, nameSize),
				asm.LoadMem(asm.R3, asm.RFP, pointer, asm.DWord),
				asm.FnProbeReadKernelStr.Call(),
			},
			follow(asm.R9, o.dentryParent),
		)
	}
	return slices.Concat(append(parts, asm.Instructions{
		asm.Mov.Reg(asm.R1, out),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRingbufSubmit.Call(),
		asm.Ja.Label("end"),

		asm.LoadMapValue(asm.R1, lost.FD(), 0).WithSymbol("full"),
		asm.Mov.Imm(asm.R2, 1),
		asm.StoreXAdd(asm.R1, asm.R2, asm.DWord),

		asm.Mov.Imm(asm.R0, 0).WithSymbol("end"),
		asm.Return(),
	})...)
}

// read copies what the kernel has at from + at to to + offset. Only the
// registers from R6 on outlive it.
func read(to asm.Register, offset, size int32, from asm.Register, at int) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R1, to),
		asm.Add.Imm(asm.R1, offset),
		asm.Mov.Imm(asm.R2, size),
		asm.Mov.Reg(asm.R3, from),
		asm.Add.Imm(asm.R3, int32(at)),
		asm.FnProbeReadKernel.Call(),
	}
}
