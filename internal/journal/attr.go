package journal

import (
	"log/slog"
	"slices"
)

// field is one attribute with its groups joined into its key.
type field struct {
	key   string
	value slog.Value
}

// scope is what WithGroup and WithAttrs collected so far. It is never changed
// in place: handlers derived from one another share it.
type scope struct {
	separator string
	prefix    string
	fields    []field
}

func (s scope) withGroup(name string) scope {
	if name == "" {
		return s
	}
	s.prefix += name + s.separator
	return s
}

func (s scope) withAttrs(attrs []slog.Attr) scope {
	s.fields = slices.Clip(s.fields)
	for _, a := range attrs {
		s.fields = s.add(s.fields, s.prefix, a)
	}
	return s
}

// record gives everything a record carries: what was collected, then its own.
func (s scope) record(r slog.Record) []field {
	fields := slices.Clip(s.fields)
	r.Attrs(func(a slog.Attr) bool {
		fields = s.add(fields, s.prefix, a)
		return true
	})
	return fields
}

// add flattens groups and resolves values, by the rules that slog.Handler
// states: an empty attribute and an empty group vanish, a group without a
// name is inlined.
func (s scope) add(fields []field, prefix string, a slog.Attr) []field {
	a.Value = a.Value.Resolve()
	if a.Equal(slog.Attr{}) {
		return fields
	}
	if a.Value.Kind() != slog.KindGroup {
		return append(fields, field{key: prefix + a.Key, value: a.Value})
	}
	if a.Key != "" {
		prefix += a.Key + s.separator
	}
	for _, member := range a.Value.Group() {
		fields = s.add(fields, prefix, member)
	}
	return fields
}
