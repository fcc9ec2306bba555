package uevent

import (
	"strings"
	"testing"
)

func BenchmarkParsePCIAdd(b *testing.B) {
	raw := []byte(pciAdd)
	var ev Event
	b.ReportAllocs()
	for b.Loop() {
		if err := Parse(raw, &ev); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDropForeign takes forged events from a real socket and drops them.
func BenchmarkDropForeign(b *testing.B) {
	send, conn := newSender(b), listen(b)
	var ev Event
	benchmarkQueue(b, func() { send.multicast(pciAdd) }, func() {
		if err := conn.raw.Read(conn.read); err != nil {
			b.Fatal(err)
		}
		if done, err := conn.take(&ev); done {
			b.Fatalf("foreign event was handed out: %v", err)
		}
	})
	if got := conn.Dropped().Foreign; got < uint64(b.N) {
		b.Fatalf("%d foreign events were counted, want %d", got, b.N)
	}
}

// BenchmarkReceive takes true events from a real socket.
func BenchmarkReceive(b *testing.B) {
	send, conn := newSender(b), listen(b)
	payload := strings.TrimSuffix(pciAdd, "SEQNUM=4021\x00")
	var ev Event
	benchmarkQueue(b, func() { send.kernel(payload) }, func() {
		if err := conn.Receive(&ev); err != nil {
			b.Fatal(err)
		}
	})
}

// benchmarkQueue measures take alone: the messages are queued while the clock
// stands, as few at a time as fit in any receive buffer.
func benchmarkQueue(b *testing.B, queue, take func()) {
	const batch = 100
	b.ReportAllocs()
	for left := b.N; left > 0; left -= batch {
		n := min(left, batch)
		b.StopTimer()
		for range n {
			queue()
		}
		b.StartTimer()
		for range n {
			take()
		}
	}
}
