package guard

import (
	"os"
	"strings"
)

// Async is what the kernel command line says of asynchronous probing, which
// takes a driver its priority (Documentation/admin-guide/kernel-parameters.txt).
type Async struct {
	drivers map[string]bool // by driver_async_probe=
	modules map[string]bool // by MODULE.async_probe, with _ for each -
}

// others stands for all drivers or modules that are not named.
const others = "*"

// parseAsync reads a kernel command line.
func parseAsync(line string) Async {
	a := Async{modules: map[string]bool{}}
	for word := range strings.FieldsSeq(line) {
		name, value, _ := strings.Cut(word, "=")
		module, ok := strings.CutSuffix(strings.ReplaceAll(name, "-", "_"), ".async_probe")
		switch {
		case name == "driver_async_probe":
			a.drivers = listed(value) // the last one counts
		case !ok:
		case module == "module": // the default for all (kernel/module/main.c)
			a.modules[others] = isOn(value)
		default:
			a.modules[module] = isOn(value)
		}
	}
	return a
}

// listed reads the list of driver_async_probe: with * in it, it names those that
// are not asynchronous (drivers/base/dd.c, cmdline_requested_async_probing).
func listed(list string) map[string]bool {
	names := strings.Split(list, ",")
	drivers := map[string]bool{}
	for _, name := range names {
		drivers[name] = true
	}
	if !drivers[others] {
		return drivers
	}
	for _, name := range names {
		drivers[name] = name == others
	}
	return drivers
}

func isOn(value string) bool { return value != "0" && value != "n" && value != "N" }

func readAsync(file string) (Async, error) {
	line, err := os.ReadFile(file)
	return parseAsync(string(line)), err
}

// Of reports whether a driver, of the module of the same name, is made
// asynchronous.
func (a Async) Of(driver string) bool {
	return either(a.drivers, driver) || either(a.modules, strings.ReplaceAll(driver, "-", "_"))
}

func either(by map[string]bool, name string) bool {
	if is, ok := by[name]; ok {
		return is
	}
	return by[others]
}
