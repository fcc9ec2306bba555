package policy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// The names below a Source.
const (
	mainFile   = "policy.toml"
	dropInDir  = "policy.d"
	dropInName = ".toml" // how a drop-in's name ends
)

// Source is a folder with a policy: policy.toml, and drop-ins in policy.d.
type Source struct {
	Path string // the folder's name in faults, in Rule.File and in Files
	FS   fs.FS
}

// Dir is the Source of a folder of this machine.
func Dir(path string) Source { return Source{Path: path, FS: os.DirFS(path)} }

// Load reads the policy from the sources, the most important first:
//
//	policy.Load(policy.Dir("/etc/vfio-hotplug"), policy.Dir("/usr/lib/vfio-hotplug"))
//
// First come the drop-ins, policy.d/*.toml, in the order of their names whatever
// their source; of two with one name only the one in the more important source
// counts. Last comes policy.toml of the most important source that has one. An
// empty file, or a link to /dev/null, thus hides the file of that name in the
// other sources. Hidden files are no drop-ins, and a missing folder is an empty
// one.
//
// An error is Faults: everything that is wrong with all files.
func Load(sources ...Source) (*Policy, error) {
	files := dropIns(sources)
	for _, s := range sources {
		if _, err := fs.Lstat(s.FS, mainFile); !errors.Is(err, fs.ErrNotExist) {
			files = append(files, s.read(mainFile, fs.FileMode.IsRegular))
			break
		}
	}
	return compile(files)
}

// LoadFiles reads a policy from the files named, and from nothing else, in that
// order. They may be pipes, and are then read to their end. An error is Faults.
func LoadFiles(paths ...string) (*Policy, error) {
	files := make([]file, len(paths))
	for i, path := range paths {
		files[i] = readNamed(path)
		files[i].rename(path)
	}
	return compile(files)
}

// readNamed reads a file that a person has named.
func readNamed(path string) file {
	dir := Dir(filepath.Dir(path))
	if path == stdin {
		return dir.readFrom(os.Stdin, filepath.Base(path)) // a socket cannot be opened by its name
	}
	return dir.read(filepath.Base(path), isStream)
}

const stdin = "/dev/stdin"

// isStream reports whether a file can be read from its beginning to its end.
func isStream(m fs.FileMode) bool {
	return m.IsRegular() || m&(fs.ModeNamedPipe|fs.ModeCharDevice) != 0
}

// dropIns reads the drop-ins. A folder that cannot be listed comes first.
func dropIns(sources []Source) []file {
	var files []file
	owner := map[string]Source{}
	for _, s := range sources {
		entries, err := fs.ReadDir(s.FS, dropInDir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			files = append(files, s.unreadable(dropInDir, err))
		}
		for _, e := range entries {
			if _, taken := owner[e.Name()]; !taken && isDropIn(e.Name()) {
				owner[e.Name()] = s
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(owner)) {
		files = append(files, owner[name].read(path.Join(dropInDir, name), fs.FileMode.IsRegular))
	}
	return files
}

func isDropIn(name string) bool {
	return strings.HasSuffix(name, dropInName) && !strings.HasPrefix(name, ".")
}

// read reads one file. It does not open what may not be opened: in a folder a FIFO,
// since that waits for somebody to write into it.
func (s Source) read(name string, may func(fs.FileMode) bool) file {
	info, err := fs.Stat(s.FS, name)
	switch {
	case err != nil:
		return s.unreadable(name, err)
	case info.IsDir():
		return s.unreadable(name, errors.New("a directory, where a file should be"))
	case isNull(info):
		return file{name: s.name(name)}
	case !may(info.Mode()):
		return s.unreadable(name, errors.New("not a regular file"))
	}
	f, err := s.FS.Open(name)
	if err != nil {
		return s.unreadable(name, err)
	}
	defer f.Close()
	return s.readFrom(f, name)
}

func (s Source) readFrom(f io.Reader, name string) file {
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return s.unreadable(name, err)
	}
	return file{name: s.name(name), data: data}
}

// isNull reports whether info is that of /dev/null.
func isNull(info fs.FileInfo) bool {
	null, err := os.Stat(os.DevNull)
	return err == nil && os.SameFile(info, null)
}

// unreadable is the file of that name which err kept us from reading.
func (s Source) unreadable(name string, err error) file {
	cause := err
	var op *fs.PathError
	if errors.As(err, &op) {
		cause = op.Err // its path is relative to the source
	}
	f := file{name: s.name(name), fault: &Fault{Message: fmt.Sprintf("cannot be read: %v", cause), Err: err}}
	f.rename(f.name)
	return f
}

// rename gives f and its fault another name.
func (f *file) rename(name string) {
	f.name = name
	if f.fault != nil {
		f.fault.File = name
	}
}

func (s Source) name(name string) string { return path.Join(s.Path, name) }
