//go:build race

package daemon_test

import "time"

// everyNth and firstPlace: with the race detector, which makes a trial four times
// as slow, a quarter of the operations is tried, each day another. Without it all
// are.
const everyNth = 4

func firstPlace() int { return time.Now().YearDay() % everyNth }
