package system

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/vmtest/cache"
	"vfio-hotplug/internal/vmtest/initramfs"
	"vfio-hotplug/internal/vmtest/kernel"
)

// imageSize is what a guest's root drive holds. Most of it takes no room here.
const imageSize = "1G"

// Make makes a system in the cache, unless it is there. It says on out what it
// does: mmdebstrap installs packages from the mirror that this machine uses,
// which takes minutes. It needs mmdebstrap, fakeroot and e2fsprogs; without
// root also uidmap, and user namespaces that anybody may make.
func Make(ctx context.Context, cacheDir string, spec Spec, out io.Writer) (System, error) {
	dir, err := spec.place(cacheDir)
	if err != nil {
		return System{}, err
	}
	err = cache.Fill(dir, func(dir string) error {
		fmt.Fprintf(out, "system %s: installing Debian into an image, for a minute or two\n", spec)
		return spec.build(ctx, dir, out)
	})
	if err != nil {
		return System{}, fmt.Errorf("system %s: %w", spec, err)
	}
	if err := spec.forgetOthers(dir, time.Now()); err != nil {
		return System{}, err
	}
	return Find(cacheDir, spec)
}

// unused is how long a system is kept that nobody has asked for.
const unused = 7 * 24 * time.Hour

// forgetOthers notes that a system is used, and removes those of the same name
// and other parts that have not been for long.
func (s Spec) forgetOthers(dir string, now time.Time) error {
	if err := os.Chtimes(dir, now, now); err != nil {
		return err
	}
	others, err := filepath.Glob(filepath.Join(filepath.Dir(dir), s.prefix()+"*"))
	for _, other := range others {
		if info, statErr := os.Stat(other); statErr == nil && info.IsDir() && now.Sub(info.ModTime()) > unused {
			err = errors.Join(err, os.RemoveAll(other))
		}
	}
	return err
}

func (s Spec) build(ctx context.Context, dir string, out io.Writer) error {
	stage, err := s.stage(ctx, filepath.Join(dir, "stage"), out)
	if err != nil {
		return err
	}
	root := filepath.Join(dir, "root.tar")
	if err := s.bootstrap(ctx, stage, root, out); err != nil {
		return err
	}
	if err := pour(ctx, root, filepath.Join(dir, imageFile), out); err != nil {
		return err
	}
	if err := errors.Join(os.Remove(stage), os.Remove(root)); err != nil {
		return err
	}
	text, err := json.MarshalIndent(System{Suite: s.Suite, Release: s.Kernel.Release}, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, manifest), text, 0o600)
}

// stage puts what comes from here, not from Debian's mirror, into a tar
// archive, and gives its path.
func (s Spec) stage(ctx context.Context, dir string, out io.Writer) (string, error) {
	own, err := fs.Sub(tree, "root")
	if err != nil {
		return "", err
	}
	if err := os.CopyFS(dir, own); err != nil {
		return "", err
	}
	available, err := initramfs.ReadModules(s.Kernel.Modules)
	if err != nil {
		return "", err
	}
	var names []string
	for _, name := range modules {
		if available.Has(name) {
			names = append(names, name)
		}
	}
	if err := available.Stage(filepath.Join(dir, "usr"), kernel.Program("depmod"), names...); err != nil {
		return "", err
	}
	config, err := s.Kernel.Config()
	if err != nil {
		return "", err
	}
	boot := filepath.Join(dir, "boot")
	if err := os.Mkdir(boot, 0o755); err != nil {
		return "", err
	}
	for name, file := range map[string]string{"vmlinuz-": s.Kernel.Image, "config-": config} {
		contents, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(boot, name+s.Kernel.Release), contents, 0o644); err != nil {
			return "", err
		}
	}
	archive := dir + ".tar"
	tar := exec.CommandContext(ctx, "tar", "--create", "--file="+archive, "--directory="+dir,
		"--owner=0", "--group=0", "--mode=u=rwX,go=rX", "boot", "etc", "usr")
	return archive, errors.Join(run(tar, out), os.RemoveAll(dir))
}

// bootstrap installs Debian and what is staged into a tar archive.
func (s Spec) bootstrap(ctx context.Context, stage, root string, out io.Writer) error {
	source, err := kernel.Source(s.Suite)
	if err != nil {
		return err
	}
	sources := root + ".sources"
	if err := os.WriteFile(sources, []byte(source.String()), 0o600); err != nil {
		return err
	}
	defer os.Remove(sources)
	// The machine's way to the mirror, such as a proxy.
	acquire, err := exec.CommandContext(ctx, "apt-config", "dump", "Acquire").Output()
	if err != nil {
		return fmt.Errorf("apt-config: %w", err)
	}
	cmd := exec.CommandContext(ctx, kernel.Program("mmdebstrap"),
		"--variant=minbase", "--architectures=amd64", "--include="+strings.Join(packages, ","),
		"--skip=cleanup/reproducible", // which takes the machine's ID away: it would boot as for the first time
		"--aptopt="+string(acquire)+"\nAcquire::Languages \"none\";",
		"--customize-hook=tar-in "+quote(stage)+" /", "--customize-hook="+setup,
		s.Suite, root, sources)
	// Asked to stop, it clears away what it has mounted and made.
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	return run(cmd, out)
}

// quote makes one word of a path, for mmdebstrap.
func quote(path string) string { return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'" }

// pour makes an image of the files in a tar archive. Within fakeroot their
// owners are kept, whoever this is.
func pour(ctx context.Context, archive, image string, out io.Writer) error {
	tree := image + ".tree"
	cmd := exec.CommandContext(ctx, "fakeroot", "sh", "-ec", `
		mkdir "$2"
		tar --extract --file="$1" --directory="$2" --same-permissions --same-owner --numeric-owner
		# Fakeroot lets its user read a file of mode 0 only when chmod has made it so.
		find "$2" -type f -perm 0 -exec chmod 0 {} +
		"$3" -q -t ext4 -L root -d "$2" "$4" "$5"
		rm -r "$2"
	`, "pour", archive, tree, kernel.Program("mke2fs"), image, imageSize)
	return run(cmd, out)
}

func run(cmd *exec.Cmd, out io.Writer) error {
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(cmd.Path), err)
	}
	return nil
}
