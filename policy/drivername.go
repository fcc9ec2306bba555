package policy

import (
	"fmt"
	"strings"
)

// CheckDriver says whether a driver may have this name, or is "auto".
func CheckDriver(name string) error {
	if name == "" || len(name) > 64 || strings.ContainsFunc(name, notInDriver) {
		return fmt.Errorf("%q is not the name of a driver: want letters, digits, - and _, 64 at most", name)
	}
	return nil
}
