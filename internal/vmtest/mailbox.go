package vmtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"vfio-hotplug/internal/vmtest/initramfs"
	"vfio-hotplug/internal/vmtest/kernel"
	"vfio-hotplug/internal/vmtest/wire"
)

// Files come into a running guest through a mailbox: a card on bus 0 whose
// memory is a file of the host (QEMU's docs/system/devices/ivshmem.rst). The card
// has no driver.
const mailboxFile = "mailbox"

// mailbox gives QEMU's arguments for the card.
func mailbox() []string {
	return []string{
		"-object", fmt.Sprintf("memory-backend-file,id=mailbox,size=%d,mem-path=%s,share=on", wire.MailboxSize, mailboxFile),
		// The master's memory is saved with the guest.
		"-device", fmt.Sprintf("ivshmem-plain,memdev=mailbox,bus=pcie.0,addr=%#x,master=on", mailboxDevice),
	}
}

// deliver copies the files and programs of a Config into the guest.
func (g *Guest) deliver(ctx context.Context) error {
	if len(g.cfg.Files)+len(g.cfg.Programs) == 0 {
		return nil
	}
	size, err := g.cfg.fillMailbox(filepath.Join(g.dir, mailboxFile))
	if err != nil {
		return fmt.Errorf("files for the guest: %w", err)
	}
	var reply wire.Outcome
	if err := g.call(ctx, "Unpack", wire.Unpack{Size: size}, &reply); err != nil {
		return err
	}
	return failure(reply)
}

// fillMailbox writes an archive into a mailbox, and gives its size.
func (c Config) fillMailbox(path string) (int, error) {
	if c.System != nil && len(c.Programs) > 0 {
		return 0, errors.New("a package guest takes no programs of this machine")
	}
	box, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return 0, err
	}
	defer box.Close()
	out := &limited{to: box, left: wire.MailboxSize}
	a := initramfs.New(out)
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(c.Files)) {
		errs = append(errs, a.Copy(name, c.Files[name]))
	}
	for _, name := range c.Programs {
		errs = append(errs, a.Program("/usr/bin/"+filepath.Base(name), kernel.Program(name)))
	}
	return wire.MailboxSize - out.left, errors.Join(append(errs, a.Close(), box.Close())...)
}

// limited is a writer to a file that must not grow.
type limited struct {
	to   *os.File
	left int
}

func (l *limited) Write(b []byte) (int, error) {
	if len(b) > l.left {
		return 0, fmt.Errorf("more than %d MiB", wire.MailboxSize>>20)
	}
	l.left -= len(b)
	return l.to.Write(b)
}
