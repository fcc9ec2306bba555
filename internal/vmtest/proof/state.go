package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"vfio-hotplug/internal/vmtest/cache"
)

// state names what is in the tree.
type state struct {
	commit   string // the last one
	changed  bool   // the tree is not that commit's
	contents string // a key of every file that is not ignored, tracked or not
}

func (s state) String() string {
	if s.changed {
		return fmt.Sprintf("%s with uncommitted changes (contents %s)", s.commit, s.contents)
	}
	return s.commit
}

// readState reads the state of the tree that the working directory is the top
// of.
func readState(ctx context.Context) (state, error) {
	var s state
	head, err := git(ctx, "rev-parse", "--short=12", "HEAD")
	if err != nil {
		return s, err
	}
	s.commit = strings.TrimSpace(head)
	changes, err := git(ctx, "status", "--porcelain")
	if err != nil {
		return s, err
	}
	s.changed = changes != ""
	files, err := git(ctx, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	if err != nil {
		return s, err
	}
	s.contents, err = contentsKey(strings.Split(strings.TrimSuffix(files, "\x00"), "\x00"))
	return s, err
}

// contentsKey is a key of files: of their names, contents, and whether they can
// be executed. One that is not there counts as such.
func contentsKey(files []string) (string, error) {
	var parts []string
	for _, name := range files {
		info, err := os.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			parts = append(parts, name, "gone")
			continue
		}
		if err != nil {
			return "", err
		}
		sum := ""
		if info.Mode().IsRegular() {
			if sum, err = cache.FileKey(name); err != nil {
				return "", err
			}
		}
		parts = append(parts, name, (info.Mode() &^ 0o666).String(), sum)
	}
	return cache.Key(parts...), nil
}

func git(ctx context.Context, args ...string) (string, error) {
	text, err := exec.CommandContext(ctx, "git", args...).Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w", args[0], err)
	}
	return string(text), nil
}

// resultsDir is where the results of a state are kept.
func resultsDir(cacheDir string, s state) string {
	return filepath.Join(cacheDir, "proof", s.commit+"-"+s.contents)
}
