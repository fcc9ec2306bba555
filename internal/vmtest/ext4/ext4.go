// Package ext4 reads and writes files in an image of an ext4 file system that
// nobody has mounted. It needs debugfs and no privilege.
package ext4

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"

	"vfio-hotplug/internal/vmtest/kernel"
)

// Read copies a file of the image to a new file of the host. One that is not
// in the image is fs.ErrNotExist. Symbolic links are not followed.
//
// It knows nothing of the journal: what a machine wrote last before it was cut
// off is not seen.
func Read(ctx context.Context, image, name, to string) error {
	err := debugfs(ctx, image, false, command("dump", name, to))
	if err != nil {
		return fmt.Errorf("read %s of %s: %w", name, image, err)
	}
	// Of a file that it does not find, debugfs makes none.
	if _, err := os.Stat(to); err != nil {
		return fmt.Errorf("read %s of %s: %w", name, image, err)
	}
	return nil
}

// Write copies files of the host into the image: name there, name here. They
// belong to root and have the mode that they have here. Directories come by
// themselves, what has the same name goes.
func Write(ctx context.Context, image string, files map[string]string) error {
	if len(files) == 0 {
		return nil
	}
	var prepare, write []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		for _, dir := range parents(name) {
			prepare = append(prepare, command("mkdir", dir))
		}
		prepare = append(prepare, command("rm", name))
		write = append(write, command("write", files[name], name))
	}
	// Most directories are there, most files are not: of that it complains.
	var complaint *complaintError
	if err := debugfs(ctx, image, true, prepare...); err != nil && !errors.As(err, &complaint) {
		return fmt.Errorf("write to %s: %w", image, err)
	}
	if err := debugfs(ctx, image, true, write...); err != nil {
		return fmt.Errorf("write to %s: %w", image, err)
	}
	return nil
}

// parents gives the directories above a file, outermost first.
func parents(name string) []string {
	var dirs []string
	for dir := path.Dir(path.Clean("/" + name)); dir != "/"; dir = path.Dir(dir) {
		dirs = append(dirs, dir)
	}
	slices.Reverse(dirs)
	return dirs
}

// command puts a line for debugfs together.
func command(name string, args ...string) string {
	for _, arg := range args {
		// Within quotes a quote is written twice.
		name += ` "` + strings.ReplaceAll(arg, `"`, `""`) + `"`
	}
	return name
}

// A complaintError is what debugfs says on its standard error. It exits with 0
// all the same.
type complaintError struct{ text string }

func (e *complaintError) Error() string { return "debugfs: " + e.text }

func (e *complaintError) Is(target error) bool {
	return target == fs.ErrNotExist && strings.Contains(e.text, "File not found")
}

func debugfs(ctx context.Context, image string, write bool, commands ...string) error {
	args := []string{"-f", "-", image}
	if write {
		args = append([]string{"-w"}, args...)
	}
	cmd := exec.CommandContext(ctx, kernel.Program("debugfs"), args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "DEBUGFS_PAGER=cat")
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("debugfs: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	// It begins with its name and version.
	_, complaints, _ := strings.Cut(stderr.String(), "\n")
	if text := strings.TrimSpace(complaints); text != "" {
		return &complaintError{strings.ReplaceAll(text, "\n", "; ")}
	}
	return nil
}
