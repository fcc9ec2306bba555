package initramfs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func release(t *testing.T) *Modules {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "6.1.0-test")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		// As depmod writes it: what is needed first stands last.
		"modules.dep":     "kernel/vfio/pci/vfio-pci.ko.xz: kernel/vfio/pci/vfio-pci-core.ko.xz kernel/vfio/vfio.ko.xz\nkernel/vfio/vfio.ko.xz:\nkernel/vfio/pci/vfio-pci-core.ko.xz: kernel/vfio/vfio.ko.xz\n",
		"modules.builtin": "kernel/drivers/pci/pci-stub.ko\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m, err := ReadModules(dir)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestClosureIsInTheOrderToLoad(t *testing.T) {
	vfio, core, pci := "kernel/vfio/vfio.ko.xz", "kernel/vfio/pci/vfio-pci-core.ko.xz", "kernel/vfio/pci/vfio-pci.ko.xz"
	for name, test := range map[string]struct{ ask, want []string }{
		"with what it needs":   {[]string{"vfio-pci"}, []string{vfio, core, pci}},
		"by the kernel's name": {[]string{"vfio_pci"}, []string{vfio, core, pci}},
		"each once":            {[]string{"vfio", "vfio-pci"}, []string{vfio, core, pci}},
		"built in":             {[]string{"pci-stub"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := release(t).Closure(test.ask...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
		})
	}
}

func TestClosureNamesWhatIsMissing(t *testing.T) {
	_, err := release(t).Closure("nvme")
	if err == nil || !strings.Contains(err.Error(), "6.1.0-test has no module nvme") {
		t.Errorf("error %v names neither kernel nor module", err)
	}
}

func TestPlainNameOfAModule(t *testing.T) {
	for file, want := range map[string]string{"a/b.ko": "a/b.ko", "a/b.ko.xz": "a/b.ko", "a/b.ko.zst": "a/b.ko"} {
		if got := plain(file); got != want {
			t.Errorf("plain(%q) = %q, want %q", file, got, want)
		}
	}
}
