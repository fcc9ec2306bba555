package vmtest

import (
	"os"
	"path/filepath"
	"testing"
)

func TestBuildGivesTheProgramsThatItIsHanded(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(ProgramsVar, dir)
	if got, err := Build(AgentPackage); err == nil {
		t.Errorf("a program that is not there: %s", got)
	}
	want := filepath.Join(dir, "agent")
	if err := os.WriteFile(want, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := Build(AgentPackage); err != nil || got != want {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
}
