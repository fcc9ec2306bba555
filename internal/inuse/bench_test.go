package inuse

import "testing"

// What a look through all processes of this machine costs, without and with
// their mappings.
func BenchmarkLookThroughProcesses(b *testing.B) {
	f := New(nil, "/")
	for name, mapped := range map[string]bool{"descriptors": false, "mappings": true} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				f.scan(mapped)
			}
		})
	}
}

// What it costs that very many processes have one device open.
func BenchmarkOpenersOfOneDevice(b *testing.B) {
	for b.Loop() {
		found := opens{}
		for pid := range 20000 {
			for range 3 {
				found.add(device{character: true, number: null}, pid, "link")
			}
		}
	}
}
