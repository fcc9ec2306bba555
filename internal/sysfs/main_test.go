package sysfs

import (
	"os"
	"testing"
)

// TestMain is also the program that InProcess starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == WriteCommand {
		os.Exit(RunWrite(os.Args[2:]))
	}
	os.Exit(m.Run())
}
