//go:build !race

package daemon_test

// everyNth and firstPlace: every operation is tried.
const everyNth = 1

func firstPlace() int { return 0 }
