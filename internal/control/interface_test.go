package control

import (
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The interface file is a promise; the Go types must keep it.
func TestTypesFollowTheInterfaceFile(t *testing.T) {
	tests := []struct {
		head string // what stands before the fields
		in   any
	}{
		{"type Device ", Device{}},
		{"method Status", StatusRequest{}},
		{"method Status(all: ?bool) -> ", StatusReply{}},
		{"method Bind", BindRequest{}},
		{"method Bind(address: string, driver: ?string, takeover: ?string) -> ", DeviceReply{}},
		{"method Release", ReleaseRequest{}},
		{"method Release(address: string) -> ", DeviceReply{}},
		{"error Failed ", Failure{}},
	}
	comment := regexp.MustCompile(`#.*`)
	for _, tt := range tests {
		_, rest, ok := strings.Cut(description, tt.head+"(")
		if !ok {
			t.Errorf("the interface file has no %q", tt.head)
			continue
		}
		body, _, _ := strings.Cut(rest, ")")
		var want []string
		for _, m := range regexp.MustCompile(`(\w+): `).FindAllStringSubmatch(comment.ReplaceAllString(body, ""), -1) {
			want = append(want, m[1])
		}
		if got := jsonNames(tt.in); !slices.Equal(want, got) {
			t.Errorf("%s: the file has %q, %T has %q", tt.head, want, tt.in, got)
		}
	}
}

func jsonNames(v any) (names []string) {
	for field := range reflect.TypeOf(v).Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}

func TestEveryNameIsInTheInterfaceFile(t *testing.T) {
	for name, kind := range map[string]string{
		MethodStatus: "method", MethodBind: "method", MethodRelease: "method",
		ErrorFailed: "error",
	} {
		short := strings.TrimPrefix(name, Interface+".")
		if !regexp.MustCompile(kind + ` ` + short + ` ?\(`).MatchString(description) {
			t.Errorf("the interface file has no %s %s", kind, short)
		}
	}
}
