package kernel

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"vfio-hotplug/internal/vmtest/cache"
)

// FetchBusybox brings a static busybox into the cache, unless it is there, and
// gives its path. It is taken out of the package busybox-static, which is not
// installed: it would push out the machine's own busybox. On Debian nothing but
// the main component of the machine's release is asked for it, so that a broken
// source of somebody else does no harm.
func FetchBusybox(ctx context.Context, cacheDir string, out io.Writer) (string, error) {
	fill := func(dir string) error {
		id, codename, err := Distribution()
		if err != nil {
			return err
		}
		suite := ""
		if id == "debian" {
			suite = codename
		}
		fmt.Fprintf(out, "busybox: fetching busybox-static %s\n", from(suite))
		archive, err := Archive(ctx, cacheDir, suite, out)
		if err != nil {
			return err
		}
		p, err := archive.Package(ctx, "busybox-static")
		if err != nil {
			return err
		}
		return archive.Unpack(ctx, dir, p)
	}
	if err := cache.Fill(filepath.Join(cacheDir, "busybox"), fill); err != nil {
		return "", fmt.Errorf("package busybox-static: %w", err)
	}
	return Busybox(cacheDir)
}

// Busybox gives the path of the busybox in the cache.
func Busybox(cacheDir string) (string, error) {
	for _, name := range []string{"bin/busybox", "usr/bin/busybox"} {
		path := filepath.Join(cacheDir, "busybox", name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("busybox is not in the cache: run go run ./internal/vmtest/vmsetup")
}
