//go:build race

package daemon_test

// everyNth: with the race detector, which makes a trial four times as slow, a
// quarter of the operations is tried. Without it all are.
const everyNth = 4
