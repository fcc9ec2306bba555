package apt

import (
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

func TestSourcesAreReadInBothStyles(t *testing.T) {
	for name, test := range map[string]struct {
		file, text string
		want       []Source
	}{
		"one line": {
			"sources.list",
			"# main\ndeb http://mirror/debian bookworm main contrib # all\n\ndeb-src http://mirror/debian bookworm main\n",
			[]Source{
				{Types: []string{"deb"}, URIs: []string{"http://mirror/debian"}, Suites: []string{"bookworm"}, Components: []string{"main", "contrib"}},
				{Types: []string{"deb-src"}, URIs: []string{"http://mirror/debian"}, Suites: []string{"bookworm"}, Components: []string{"main"}},
			},
		},
		"one line with options": {
			"sources.list.d/a.list",
			"deb [arch=amd64 signed-by=/k.gpg]  http://mirror/debian\tbookworm  main\n",
			[]Source{{Types: []string{"deb"}, URIs: []string{"http://mirror/debian"}, Suites: []string{"bookworm"}, Components: []string{"main"}, SignedBy: "/k.gpg"}},
		},
		"stanzas": {
			"sources.list.d/debian.sources",
			"Types: deb deb-src\n# a comment\nURIs: http://mirror/debian\nSuites: trixie trixie-updates\nComponents: main\nSigned-By: /k.pgp\n\n\nTypes: deb\nURIs: http://other/debian\nSuites: x\nComponents: main\n",
			[]Source{
				{Types: []string{"deb", "deb-src"}, URIs: []string{"http://mirror/debian"}, Suites: []string{"trixie", "trixie-updates"}, Components: []string{"main"}, SignedBy: "/k.pgp"},
				{Types: []string{"deb"}, URIs: []string{"http://other/debian"}, Suites: []string{"x"}, Components: []string{"main"}},
			},
		},
		"a key in the file": {
			"sources.list.d/debian.sources",
			"Types: deb\nURIs: http://mirror/debian\nSuites: trixie\nComponents: main\nSigned-By:\n -----BEGIN-----\n .\n abc\n -----END-----\n",
			[]Source{{Types: []string{"deb"}, URIs: []string{"http://mirror/debian"}, Suites: []string{"trixie"}, Components: []string{"main"}, SignedBy: "\n -----BEGIN-----\n .\n abc\n -----END-----"}},
		},
		"switched off":         {"sources.list.d/debian.sources", "Enabled: no\nTypes: deb\nURIs: http://mirror\nSuites: x\nComponents: main\n", nil},
		"not a file of apt's":  {"sources.list.d/debian.sources.bak", "Types: deb\nURIs: http://mirror\nSuites: x\nComponents: main\n", nil},
		"a line without suite": {"sources.list", "deb http://mirror\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Sources(fstest.MapFS{test.file: {Data: []byte(test.text)}})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("sources (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMainFindsTheReleaseAmongOthers(t *testing.T) {
	deb := func(suite, component string) Source {
		return Source{Types: []string{"deb"}, URIs: []string{"http://" + suite}, Suites: []string{suite}, Components: []string{component}}
	}
	for name, test := range map[string]struct {
		sources []Source
		want    string
	}{
		"by code name":     {[]Source{deb("bookworm-security", "main"), deb("bookworm", "main")}, "http://bookworm"},
		"by alias":         {[]Source{deb("stable", "main")}, "http://stable"},
		"not another part": {[]Source{deb("bookworm", "contrib")}, ""},
		"not the sources":  {[]Source{{Types: []string{"deb-src"}, URIs: []string{"http://x"}, Suites: []string{"bookworm"}, Components: []string{"main"}}}, ""},
		"nothing":          {nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := Main(test.sources, "bookworm")
			if ok != (test.want != "") || ok && got.URIs[0] != test.want {
				t.Errorf("got %v, %v; want %q", got, ok, test.want)
			}
		})
	}
}

func TestAnotherSuiteOfTheMirrorKeepsItsKey(t *testing.T) {
	s := Source{Types: []string{"deb", "deb-src"}, URIs: []string{"http://mirror/debian"}, Suites: []string{"bookworm", "bookworm-updates"}, Components: []string{"main", "contrib"}}
	for name, test := range map[string]struct{ own, want string }{
		"its own":                {"/own.gpg", "Signed-By: /own.gpg\n"},
		"its own, in the file":   {"\n -----BEGIN-----\n .", "Signed-By: \n -----BEGIN-----\n .\n"},
		"none: the distribution": {"", "Signed-By: /keys.gpg\n"},
	} {
		t.Run(name, func(t *testing.T) {
			s.SignedBy = test.own
			want := "Types: deb\nURIs: http://mirror/debian\nSuites: trixie-backports\nComponents: main\n" + test.want
			if diff := cmp.Diff(want, s.Suite("trixie-backports", "/keys.gpg").String()); diff != "" {
				t.Errorf("stanza (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNamesOfADependsField(t *testing.T) {
	got := names("kmod, linux-base (>= 4.3~) | other, a:any (= 1), b")
	if diff := cmp.Diff([]string{"kmod", "linux-base", "a", "b"}, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	if got := names(""); got != nil {
		t.Errorf("names of an empty field: %q", got)
	}
}

func TestTheReasonOfAComplaint(t *testing.T) {
	for complaint, want := range map[string]string{
		"W: Failed to fetch x  404\nE: Some index files failed to download.\n": "W: Failed to fetch x  404",
		"W: something\nE: Unable to locate package x\n":                        "E: Unable to locate package x",
		"": "",
	} {
		if got := reason(complaint); got != want {
			t.Errorf("reason of %q: %q, want %q", complaint, got, want)
		}
	}
}
