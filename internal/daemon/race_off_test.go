//go:build !race

package daemon_test

// everyNth: every operation is tried.
const everyNth = 1
