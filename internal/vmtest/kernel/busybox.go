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
// installed: it would push out the machine's own busybox.
func FetchBusybox(ctx context.Context, cacheDir string, out io.Writer) (string, error) {
	fill := func(dir string) error {
		fmt.Fprintln(out, "busybox: fetching busybox-static of this machine's own sources")
		archive, err := Archive(ctx, cacheDir, "", out)
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
