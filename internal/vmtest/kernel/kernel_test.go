package kernel

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tree makes empty files below a new directory.
func tree(t *testing.T, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLayoutOfPackages(t *testing.T) {
	for name, test := range map[string]struct {
		files []string
		want  Kernel
	}{
		"one package, Debian 12": {
			[]string{"boot/vmlinuz-6.1.0-50-amd64", "lib/modules/6.1.0-50-amd64/modules.order"},
			Kernel{Release: "6.1.0-50-amd64", Image: "boot/vmlinuz-6.1.0-50-amd64", Modules: "lib/modules/6.1.0-50-amd64"},
		},
		"split, image beside the modules": {
			[]string{"usr/lib/modules/7.3.4+deb13-amd64/vmlinuz", "usr/lib/modules/7.3.4+deb13-amd64/modules.order"},
			Kernel{Release: "7.3.4+deb13-amd64", Image: "usr/lib/modules/7.3.4+deb13-amd64/vmlinuz", Modules: "usr/lib/modules/7.3.4+deb13-amd64"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := layout(tree(t, test.files...))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("kernel (-want +got):\n%s", diff)
			}
		})
	}
	if _, err := layout(tree(t, "lib/modules/6.1/modules.order")); err == nil {
		t.Error("modules without an image are taken for a kernel")
	}
}

func TestOwnKernel(t *testing.T) {
	dir := tree(t, "vmlinuz", "6.12.9-custom/modules.dep", "empty/x")
	image, modules := filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "6.12.9-custom")
	for name, test := range map[string]struct {
		image, modules string
		want           Kernel
		ok             bool
		fault          string
	}{
		"none":           {},
		"both":           {image: image, modules: modules, ok: true, want: Kernel{Name: "6.12", Release: "6.12.9-custom", Image: image, Modules: modules}},
		"image only":     {image: image, ok: true, fault: "set both"},
		"modules only":   {modules: modules, ok: true, fault: "set both"},
		"no such image":  {image: dir + "/nothing", modules: modules, ok: true, fault: "no such file"},
		"no modules.dep": {image: image, modules: dir + "/empty", ok: true, fault: "modules.dep"},
	} {
		t.Run(name, func(t *testing.T) {
			env := map[string]string{"VMLINUZ": test.image, "MODULES": test.modules}
			got, ok, err := Own(func(key string) string { return env[key] })
			if (err != nil) != (test.fault != "") || err != nil && !strings.Contains(err.Error(), test.fault) {
				t.Fatalf("error %v, want %q", err, test.fault)
			}
			if diff := cmp.Diff(test.want, got); diff != "" || ok != test.ok {
				t.Errorf("ok %v, want %v; kernel (-want +got):\n%s", ok, test.ok, diff)
			}
		})
	}
}

// cached makes a cache that holds kernels of these releases, by spec.
func cached(t *testing.T, releases map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for spec, release := range releases {
		place := place(dir, Spec{Name: spec})
		if err := os.MkdirAll(place, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(place, manifest), []byte(`{"Release": "`+release+`"}`), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestKernelsGoByTheirVersion(t *testing.T) {
	whole := map[string]string{"6.1": "6.1.0-50-amd64", "6.12": "6.12.95+deb12-amd64", Newest: "7.4.1+deb13-amd64"}
	part := map[string]string{"6.1": "6.1.0-50-amd64"}
	for name, test := range map[string]struct {
		cache map[string]string
		names []string
		want  []string
		fault string
	}{
		"all":                         {cache: whole, want: []string{"6.1", "6.12", "7.4"}},
		"some, in another order":      {cache: whole, names: []string{"7.4", "6.1"}, want: []string{"6.1", "7.4"}},
		"the newest":                  {cache: whole, names: []string{Newest}, want: []string{"7.4"}},
		"by both its names":           {cache: whole, names: []string{Newest, "7.4"}, want: []string{"7.4"}},
		"what the suite had before":   {cache: whole, names: []string{"7.3"}, fault: "there is no kernel 7.3 here: there are 6.1, 6.12, 7.4"},
		"one is there, and asked for": {cache: part, names: []string{"6.1"}, want: []string{"6.1"}},
		"not all are there":           {cache: part, fault: "6.12: kernel is not in the cache: fetch it"},
		"not fetched, by its version": {cache: part, names: []string{"7.3"}, fault: "there is no kernel 7.3 here: there are 6.1, 6.12, newest"},
	} {
		t.Run(name, func(t *testing.T) {
			kernels, err := choose(cached(t, test.cache), Matrix("debian"), test.names)
			if (err != nil) != (test.fault != "") || err != nil && !strings.Contains(err.Error(), test.fault) {
				t.Fatalf("error %v, want %q", err, test.fault)
			}
			var got []string
			for _, k := range kernels {
				got = append(got, k.Name)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("kernels (-want +got):\n%s", diff)
			}
		})
	}
}

func TestASuiteThatMovedOnDoesNotGoByTheOldVersion(t *testing.T) {
	for spec, releases := range map[string]map[string]bool{
		"6.1":  {"6.1.0-50-amd64": true, "6.12.95+deb12-amd64": false, "6.1": false},
		"6.12": {"6.12.95+deb12-amd64": true, "6.18.1+deb12-amd64": false},
		Newest: {"7.3.4+deb13-amd64": true, "8.0.1+deb14-amd64": true},
	} {
		for release, fits := range releases {
			if err := (Spec{Name: spec}).fits(release); (err == nil) != fits {
				t.Errorf("%s for %s: %v", release, spec, err)
			}
		}
	}
}

func TestShortName(t *testing.T) {
	for release, want := range map[string]string{"6.1.0-50-amd64": "6.1", "6.8.0-60-generic": "6.8", "7.3": "7.3", "next": "next"} {
		if got := short(release); got != want {
			t.Errorf("short(%q) = %q, want %q", release, got, want)
		}
	}
}

func TestAnImageThatIsNoneIsRefused(t *testing.T) {
	header := func(change func([]byte)) []byte {
		b := make([]byte, 8192)
		copy(b[headerMagic:], "HdrS")
		b[headerVersion], b[headerVersion+1] = 0x0f, 0x02
		b[payloadLength] = 8
		change(b)
		return b
	}
	for name, test := range map[string]struct {
		image []byte
		fault string
	}{
		"short":               {[]byte("x"), "not a bzImage"},
		"no magic":            {make([]byte, 4096), "not a bzImage"},
		"old":                 {header(func(b []byte) { b[headerVersion] = 0x07 }), "too old"},
		"payload outside":     {header(func(b []byte) { b[payloadOffset+3] = 0xff }), "outside"},
		"payload too small":   {header(func(b []byte) { b[payloadLength] = 3 }), "outside"},
		"unknown compression": {header(func([]byte) {}), "compression"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := unpackImage(test.image)
			if err == nil || !strings.Contains(err.Error(), test.fault) {
				t.Errorf("error %v, want %q", err, test.fault)
			}
		})
	}
}

func TestNotes(t *testing.T) {
	pvh := "\x04\x00\x00\x00\x04\x00\x00\x00\x12\x00\x00\x00Xen\x00abcd"
	other := "\x06\x00\x00\x00\x01\x00\x00\x00\x12\x00\x00\x00Linux\x00\x00\x00x\x00\x00\x00"
	for name, test := range map[string]struct {
		notes string
		want  bool
	}{
		"it alone":       {pvh, true},
		"behind another": {other + pvh, true},
		"another's":      {other, false},
		"cut short":      {pvh[:18], false},
		"none":           {"", false},
	} {
		if got := hasNote([]byte(test.notes), "Xen\x00", 18); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}
