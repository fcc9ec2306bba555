package policy

import (
	"errors"
	"strings"
	"testing"
)

// TestFaults: what is wrong, and all that the reader is told, line by line.
func TestFaults(t *testing.T) {
	// Most faults stand in the match of a rule that is right but for them, in line 3.
	inMatch := func(match string) string {
		return "[[rule]]\nname = \"r\"\nmatch = { " + match + " }\n"
	}
	inRule := func(settings string) string {
		return "[[rule]]\nname = \"r\"\nmatch = { slot = \"1\" }\n" + settings + "\n"
	}
	for _, c := range []struct{ name, text, want string }{
		// Not TOML.
		{"garbage", "hello\n",
			`f:1:6: hello: expected '=' after key`},
		{"quote missing", "[[rule]]\nname = \"r\nmatch = { slot = \"1\" }\n",
			`f:2:10: name = "r: basic strings cannot have new lines`},
		{"not UTF-8", "[[rule]]\nname = \"\xff\"\n",
			"f:2:9: \"\\xff\": not UTF-8: save the file as UTF-8"},
		{"UTF-16", "\xff\xfe[\x00[\x00", `f:1:1: "\xff": not UTF-8: save the file as UTF-8`},
		{"byte order mark", "\ufeff[[rule]]\n",
			`f:1:1: "\ufeff": a byte order mark: save the file as UTF-8 without one`},
		{"NUL", "[[rule]]\nname = \"\x00\"\n",
			`f:2:9: "name = \"\x00\"": basic strings cannot have control characters`},
		{"too large", "#" + strings.Repeat(" ", 1<<20),
			`f: larger than 1 MiB: this is not a policy`},
		{"unfinished at the end", "[[rule]]\nname = \"r\"\nmatch = { slot = \"1\"",
			`f:3:20: match = { slot = "1": inline table is incomplete`},
		{"a syntax error does not hide the other rules", "[[rule]]\nnme = 1\nname = \"a\nmatch = {}\n[[rule]]\nname = 7\nmatch = { slot = [\"1\"\n[[rule]]\nnmae = \"c\"\n[[rule]] x\n[[rule]]\n",
			"f:2:1: nme: unknown key; did you mean \"name\"?\n" +
				"f:3:10: name = \"a: basic strings cannot have new lines\n" +
				"f:6:8: 7: an integer, where a string should be\n" +
				"f:8:1: [[rule]]: expected ',' or ']' after array value\n" +
				"f:9:1: nmae: unknown key; did you mean \"name\"?\n" +
				"f:10:10: [[rule]] x: expected newline but got U+0078 'x'\n" +
				"f:11:1: [[rule]]: the rule has no name\n" +
				"f:11:1: [[rule]]: the rule has no match"},
		{"hex without 0x", inMatch(`vendor = 144d`),
			`f:3:23: match = { vendor = 144d }: a value is a number (hex is written 0x144d), true, false, or text in quotes`},
		{"text without quotes", inMatch(`class = nvme`),
			`f:3:19: match = { class = nvme }: a value is a number (hex is written 0x144d), true, false, or text in quotes`},
		{"leading zero", inMatch(`numa_node = 01`), // only go-toml's decoder knows
			`f:3:23: match = { numa_node = 01 }: integers cannot have leading zeroes`},
		{"inline table opened again", "[[rule]]\nname = \"r\"\nmatch = { slot = \"1\" }\nmatch.class = \"nvme\"\n",
			`f:4:1: match.class = "nvme": key match is already defined`},

		// Tables.
		{"table unknown", "[daemon]\nmode = \"auto\"\n",
			`f:1:1: [daemon]: unknown table or key; a policy is made of [[rule]] tables and one [guard]`},
		{"key outside", "driver = \"auto\"\n",
			`f:1:1: driver: unknown table or key; a policy is made of [[rule]] tables and one [guard]`},
		{"rules", "[[rules]]\nname = \"r\"\nmatch = { class = \"nvme\" }\n",
			`f:1:1: [[rules]]: unknown table or key; did you mean "rule"?`},
		{"rules, with a fault inside", "[[rules]]\nname = \"r\"\nmatch = { clas = \"nvme\" }\n",
			`f:1:1: [[rules]]: unknown table or key; did you mean "rule"?` + "\n" +
				`f:3:11: clas: unknown key; did you mean "class"?`},
		{"single brackets", "  [rule]\nname = \"r\"\nmatch = { slto = \"1\" }\n",
			"f:1:3: [rule]: a rule starts with [[rule]], in double brackets\n" +
				`f:3:11: slto: unknown key; did you mean "slot"?`},
		{"rule is no table", "rule = 7\n",
			`f:1:8: 7: an integer, where a list should be`},
		{"rule in a list is no table", "rule = [ 7 ]\n",
			`f:1:10: 7: an integer, where a table should be`},
		{"empty rule", "[[rule]]\n",
			"f:1:1: [[rule]]: the rule has no name\n" +
				`f:1:1: [[rule]]: the rule has no match`},
		{"key twice", inRule("driver = \"auto\"\ndriver = \"vfio-pci\""),
			`f:5:1: driver: driver is already set in line 4`},
		{"key of a match twice", inMatch(`slot = "1", vendor = 0x1, slot = "2"`),
			`f:3:37: slot: slot is already set in line 3`},
		{"match twice", inRule("[rule.match]\nslot = \"2\""),
			`f:4:1: [rule.match]: match is already set in line 3`},
		{"match as a list of headers", "[[rule]]\nname = \"r\"\n[[rule.match]]\nslot = \"1\"\n",
			`f:3:1: [[rule.match]]: a list, where a table should be`},
		{"match, then a list of headers", inRule("[[rule.match]]\nslot = \"2\""),
			`f:4:1: [[rule.match]]: match is already set in line 3`},
		{"value used as a table", inRule("driver.name = \"auto\"\n[rule.name.x]"),
			"f:4:1: driver: a table, where a string should be\n" +
				"f:5:7: name: name is already set in line 2"},

		// The guard.
		{"guard misspelt", "[gaurd]\nmode = \"auto\"\n",
			`f:1:1: [gaurd]: unknown table or key; did you mean "guard"?`},
		{"guard is no table", "guard = \"claim\"\n",
			`f:1:9: "claim": a string, where a table should be`},
		{"guard in double brackets", "[[guard]]\nmode = \"auto\"\n",
			`f:1:1: [[guard]]: there is one guard: write [guard], in single brackets`},
		{"guard twice", "[guard]\nmode = \"auto\"\n[guard]\nmode = \"auto\"\n",
			`f:3:1: [guard]: guard is already set in line 1`},
		{"guard with a near key", "[guard]\nmod = \"auto\"\n",
			`f:2:1: mod: unknown key; did you mean "mode"?`},
		{"guard with an unknown key", "guard = { timeout = 7, mode = \"auto\" }\n",
			`f:1:11: timeout: unknown key; [guard] has mode`},
		{"mode near", "[guard]\nmode = \"Claim\"\n",
			`f:2:8: "Claim": unknown value; did you mean "claim"?`},
		{"mode unknown", "[guard]\nmode = \"on\"\n",
			`f:2:8: "on": unknown value; want "auto", "claim", "stub", "gate", "race" or "off"`},
		{"mode is no string", "[guard]\nmode = false\n",
			`f:2:8: false: true or false, where a string should be`},
		{"mode twice", "[guard]\nmode = \"auto\"\nmode = \"auto\"\n",
			`f:3:1: mode: mode is already set in line 2`},

		// Settings of a rule.
		{"unknown key", inRule(`colour = "red"`),
			`f:4:1: colour: unknown key; a rule has name, match, action, driver, takeover, group, guard, vmd`},
		{"near key", inRule(`take-over = "idle"`),
			`f:4:1: take-over: unknown key; did you mean "takeover"?`},
		{"match key in the rule", inRule(`vendor = 0x8086`),
			`f:4:1: vendor: this key belongs into match: match = { vendor = … }`},
		{"rule key in the match", inMatch(`slot = "1", driver = "auto"`),
			`f:3:23: driver: this key belongs to the rule, not into its match`},
		{"no name", "[[rule]]\nmatch = { slot = \"1\" }\n",
			`f:1:1: [[rule]]: the rule has no name`},
		{"name empty", "[[rule]]\nname = \"\"\nmatch = { slot = \"1\" }\n",
			`f:2:8: "": the name of a rule is not empty`},
		{"name of spaces", "[[rule]]\nname = \" \"\nmatch = { slot = \"1\" }\n",
			`f:2:8: " ": the name of a rule is not empty`},
		{"name with spaces around", "[[rule]]\nname = \"r \"\nmatch = { slot = \"1\" }\n",
			`f:2:8: "r ": the name of a rule does not start or end with a space`},
		{"name with a newline", "[[rule]]\nname = \"a\\nb\"\nmatch = { slot = \"1\" }\n",
			`f:2:8: "a\nb": the name of a rule is made of printable characters`},
		{"name too long", "[[rule]]\nname = \"" + strings.Repeat("x", 101) + "\"\nmatch = { slot = \"1\" }\n",
			`f:2:8: "` + strings.Repeat("x", 59) + `…: the name of a rule has at most 100 bytes`},
		{"name is no string", "[[rule]]\nname = true\nmatch = { slot = \"1\" }\n",
			`f:2:8: true: true or false, where a string should be`},
		{"name taken", inMatch(`slot = "1"`) + "\n" + inMatch(`slot = "2"`),
			`f:6:8: "r": the rule at f:1 has this name already`},
		{"action unknown", inRule(`action = "keep"`),
			`f:4:10: "keep": unknown value; want "bind" or "leave"`},
		{"action near", inRule(`action = "Leave"`),
			`f:4:10: "Leave": unknown value; did you mean "leave"?`},
		{"action is no string", inRule(`action = 1.5`),
			`f:4:10: 1.5: a number with a fraction, where a string should be`},
		{"group near", inRule(`group = "With"`),
			`f:4:9: "With": unknown value; did you mean "with"?`},
		{"group unknown", inRule(`group = "all"`),
			`f:4:9: "all": unknown value; want "alone" or "with"`},
		{"group is no string", inRule(`group = true`),
			`f:4:9: true: true or false, where a string should be`},
		{"group of a driver that needs none", inRule("group = \"with\"\ndriver = \"uio_pci_generic\""),
			`f:4:1: group: uio_pci_generic needs no IOMMU group: group = "with" is for the vfio drivers`},
		{"group of a rule that leaves", inRule("action = \"leave\"\ngroup = \"with\""),
			`f:5:1: group: a rule with action = "leave" has no group: it takes nothing`},
		{"takeover unknown", inRule(`takeover = "always"`),
			`f:4:12: "always": unknown value; want "blank", "never" or "idle"`},
		{"takeover near", inRule(`takeover = "idel"`),
			`f:4:12: "idel": unknown value; did you mean "idle"?`},
		{"takeover as a list", inRule(`takeover = ["idle"]`),
			`f:4:12: ["idle"]: a list, where a string should be`},
		{"driver near", inRule(`driver = "vfio_pci"`),
			`f:4:10: "vfio_pci": no such driver; did you mean "vfio-pci"?`},
		{"driver near auto", inRule(`driver = "Auto"`),
			`f:4:10: "Auto": no such driver; did you mean "auto"?`},
		{"driver with a slash", inRule(`driver = "../nvme"`),
			`f:4:10: "../nvme": the name of a driver is made of letters, digits, - and _, 64 at most`},
		{"driver too long", inRule(`driver = "` + strings.Repeat("x", 65) + `"`),
			`f:4:10: "` + strings.Repeat("x", 59) + `…: the name of a driver is made of letters, digits, - and _, 64 at most`},
		{"driver empty", inRule(`driver = ""`),
			`f:4:10: "": the name of the driver is empty; leave the key out for "vfio-pci"`},
		{"guard is no boolean", inRule(`guard = "false"`),
			`f:4:9: "false": a string, where true or false should be`},
		{"vmd is no boolean", inRule(`vmd = 1`),
			`f:4:7: 1: an integer, where true or false should be`},
		{"leave with more", inRule("action = \"leave\"\ndriver = \"auto\"\ntakeover = \"idle\"\nguard = true\nvmd = true"),
			"f:5:1: driver: a rule with action = \"leave\" has no driver: it binds nothing\n" +
				"f:6:1: takeover: a rule with action = \"leave\" has no takeover: it takes nothing\n" +
				"f:7:1: guard: a rule with action = \"leave\" has no guard: it takes nothing\n" +
				"f:8:1: vmd: a rule with action = \"leave\" has no vmd: it matches drives behind VMD anyway"},

		// The match.
		{"no match", "[[rule]]\nname = \"r\"\n",
			`f:1:1: [[rule]]: the rule has no match`},
		{"no match to leave", "[[rule]]\nname = \"r\"\naction = \"leave\"\n",
			`f:1:1: [[rule]]: the rule has no match`},
		{"match empty", "[[rule]]\nname = \"r\"\nmatch = {}\n",
			`f:3:9: {}: an empty match would match every device: name at least one key`},
		{"match table empty", "[[rule]]\nname = \"r\"\n[rule.match]\n",
			`f:3:1: [rule.match]: an empty match would match every device: name at least one key`},
		{"match is no table", "[[rule]]\nname = \"r\"\nmatch = \"nvme\"\n",
			`f:3:9: "nvme": a string, where a table should be`},
		{"match is a list", "[[rule]]\nname = \"r\"\nmatch = [{ slot = \"1\" }, { slot = \"2\" }]\n",
			`f:3:9: [{ slot = "1" }, { slot = "2" }]: a list, where a table should be`},
		{"key near", inMatch(`vendr = 0x8086`),
			`f:3:11: vendr: unknown key; did you mean "vendor"?`},
		{"key by another name", inMatch(`bdf = "01:00.0"`),
			`f:3:11: bdf: unknown key; did you mean "address"?`},
		{"key by half its name", inMatch(`numa = 1`),
			`f:3:11: numa: unknown key; did you mean "numa_node"?`},
		{"key quoted", inMatch(`"vend or" = 0x8086`),
			`f:3:11: "vend or": unknown key; did you mean "vendor"?`},
		{"key unknown", inMatch(`colour = "red"`),
			`f:3:11: colour: unknown key; a match has class, vendor, device, subsystem_vendor, subsystem_device, address, slot, behind, physfn, numa_node, dsn, not`},
		{"list empty", inMatch(`slot = []`),
			`f:3:18: []: an empty list would match no device; leave the key out to match every slot`},
		{"list in a list", inMatch(`slot = [["1"]]`),
			`f:3:18: [["1"]]: a list; a slot is a string, such as "7" or "1..24"`},
		{"second of a list", inMatch(`slot = ["1", 2, "3", true]`),
			"f:3:24: 2: an integer; a slot is a string, such as \"7\" or \"1..24\"\n" +
				`f:3:32: true: true or false; a slot is a string, such as "7" or "1..24"`},
		{"faults of several lines", "[[rule]]\nname = \"r\"\nmatch = { slot = [\n\t\"1\",\n\t\"3..2\",\n] }\n",
			`f:5:2: "3..2": the range runs backwards; did you mean "2..3"?`},

		{"class near", inMatch(`class = "NVMe"`),
			`f:3:19: "NVMe": no such class; did you mean "nvme"?`},
		{"class unknown", inMatch(`class = "disk"`),
			`f:3:19: "disk": no such class: want hex, such as 0x010802, or one of nvme, storage, raid, sata, sas, nic, ethernet, infiniband, gpu, audio, cxl, usb, crypto, accelerator`},
		{"class as uevents have it", inMatch(`class = 0x10802`),
			`f:3:19: 0x10802: a class has two, four or six hex digits, such as 0x010802; did you mean "0x010802"?`},
		{"class too long", inMatch(`class = "0x01080200"`),
			`f:3:19: "0x01080200": a class has two, four or six hex digits, such as 0x010802`},
		{"class of too many zeros", inMatch(`class = "0x00010802"`),
			`f:3:19: "0x00010802": a class has two, four or six hex digits, such as 0x010802`},
		{"class bad hex", inMatch(`class = "0x0108zz"`),
			`f:3:19: "0x0108zz": a class has two, four or six hex digits, such as 0x010802`},
		{"class decimal", inMatch(`class = 67586`),
			`f:3:19: 67586: an integer; a class is a name or hex digits, such as "nvme" or "0x010802"`},
		{"class empty", inMatch(`class = ""`),
			`f:3:19: "": no such class: want hex, such as 0x010802, or one of nvme, storage, raid, sata, sas, nic, ethernet, infiniband, gpu, audio, cxl, usb, crypto, accelerator`},
		{"class with a short mask", inMatch(`class = "0x0108/0xffff"`),
			`f:3:19: "0x0108/0xffff": a class and its mask have six hex digits each, such as 0x010800/0xffff00`},
		{"class with an empty mask", inMatch(`class = "0x010802/"`),
			`f:3:19: "0x010802/": a class and its mask have six hex digits each, such as 0x010800/0xffff00`},
		{"class mask of zeros", inMatch(`class = "0x000000/0x000000"`),
			`f:3:19: "0x000000/0x000000": this mask matches every class; leave the key out to match every class`},
		{"class with more bits than the mask", inMatch(`class = "0x010802/0xffff00"`),
			`f:3:19: "0x010802/0xffff00": the class has bits that the mask leaves out; did you mean 0x010800/0xffff00?`},
		{"bridges", inMatch(`class = ["0604", 0x060000]`),
			`f:3:19: ["0604", 0x060000]: a bridge is never bound`},

		{"vendor decimal", inMatch(`vendor = 8086`),
			`f:3:20: 8086: write an ID in hex; did you mean 0x8086?`},
		{"vendor decimal, meant so", inMatch(`vendor = 32902`),
			`f:3:20: 32902: write an ID in hex: this number is 0x8086`},
		{"vendor octal", inMatch(`vendor = 0o17`),
			`f:3:20: 0o17: write an ID in hex: this number is 0x000f`},
		{"vendor as a string", inMatch(`vendor = "0x8086"`),
			`f:3:20: "0x8086": a string, where an ID should be; did you mean 0x8086?`},
		{"vendor by name", inMatch(`vendor = "Samsung"`),
			`f:3:20: "Samsung": a string, where an ID should be, such as 0x144d`},
		{"vendor too large", inMatch(`vendor = 0x10000`),
			`f:3:20: 0x10000: an ID goes from 0x0000 to 0xffff`},
		{"vendor far too large", inMatch(`vendor = 0xfffffffffffffffffffff`),
			`f:3:20: 0xfffffffffffffffffffff: an ID goes from 0x0000 to 0xffff`},
		{"vendor negative", inMatch(`vendor = -1`),
			`f:3:20: -1: an ID goes from 0x0000 to 0xffff`},
		{"IDs of every kind", inMatch(`device = "x", subsystem_vendor = 1.5, subsystem_device = 1979-05-27`),
			"f:3:20: \"x\": a string, where an ID should be, such as 0x144d\n" +
				"f:3:44: 1.5: a number with a fraction, where an ID should be, such as 0x144d\n" +
				"f:3:68: 1979-05-27: a date or a time, where an ID should be, such as 0x144d"},

		{"address malformed", inMatch(`address = "0000:01:00"`),
			`f:3:21: "0000:01:00": not a PCI address: want dddd:bb:dd.f, such as 0000:01:00.0`},
		{"address by libvirt's name", inMatch(`address = "pci_0000_03_00_0"`),
			`f:3:21: "pci_0000_03_00_0": this is libvirt's name of it; did you mean "0000:03:00.0"?`},
		{"address by a driver's name", inMatch(`address = "/dev/nvme0n1"`),
			`f:3:21: "/dev/nvme0n1": a name comes from the driver that has the device: vfio-hotplug explain /dev/nvme0n1 shows its address`},
		{"physfn by a driver's name", inMatch(`physfn = "eth0"`),
			`f:3:20: "eth0": a name comes from the driver that has the device: vfio-hotplug explain eth0 shows its address`},
		{"address that no device has", inMatch(`address = "0000:01:20.*"`),
			`f:3:21: "0000:01:20.*": no address can match this pattern: an address is dddd:bb:dd.f, such as 0000:01:00.0`},
		{"address without the colons", inMatch(`address = "0000?01?00?9"`),
			`f:3:21: "0000?01?00?9": no address can match this pattern: an address is dddd:bb:dd.f, such as 0000:01:00.0`},
		{"address with brackets", inMatch(`address = "0000:0[12]:00.0"`),
			`f:3:21: "0000:0[12]:00.0": an address is made of hex digits, : and ., and the pattern signs * and ?; give several addresses as a list`},
		{"address too long", inMatch(`address = "` + strings.Repeat("*", 65) + `"`),
			`f:3:21: "` + strings.Repeat("*", 59) + `…: longer than any address`},
		{"address empty", inMatch(`address = ""`),
			`f:3:21: "": not a PCI address: want dddd:bb:dd.f, such as 0000:01:00.0`},
		{"address is no string", inMatch(`address = 0x010000`),
			`f:3:21: 0x010000: an integer; an address is a string, such as "0000:01:00.0"`},
		{"behind takes no pattern", inMatch(`behind = "0000:*"`),
			`f:3:20: "0000:*": not a PCI address: want dddd:bb:dd.f, such as 0000:01:00.0`},
		{"physfn is no string", inMatch(`physfn = false`),
			`f:3:20: false: true or false; an address is a string, such as "0000:01:00.0"`},

		{"slot reversed", inMatch(`slot = "24..1"`),
			`f:3:18: "24..1": the range runs backwards; did you mean "1..24"?`},
		{"slot half a range", inMatch(`slot = "1.."`),
			`f:3:18: "1..": a range of slots goes from one number to another, such as 1..24`},
		{"slot range of names", inMatch(`slot = "a..b"`),
			`f:3:18: "a..b": a range of slots goes from one number to another, such as 1..24`},
		{"slot range too far", inMatch(`slot = "1..99999999999999999999"`),
			`f:3:18: "1..99999999999999999999": a range of slots goes from one number to another, such as 1..24`},
		{"slot with three dots", inMatch(`slot = "1...3"`),
			`f:3:18: "1...3": a range of slots goes from one number to another, such as 1..24`},
		{"slot empty", inMatch(`slot = ""`),
			`f:3:18: "": the name of a slot is empty; a device without a slot has no name to match`},
		{"slot with a slash", inMatch(`slot = "../x"`),
			`f:3:18: "../x": a range of slots goes from one number to another, such as 1..24`},
		{"slot is a path", inMatch(`slot = "slots/7"`),
			`f:3:18: "slots/7": no slot has such a name: see the folders in /sys/bus/pci/slots`},
		{"slot too long", inMatch(`slot = "` + strings.Repeat("7", 65) + `"`),
			`f:3:18: "` + strings.Repeat("7", 59) + `…: no slot has so long a name`},

		{"node negative", inMatch(`numa_node = -1`),
			`f:3:23: -1: a NUMA node has a number from 0 to 1023`},
		{"node too large", inMatch(`numa_node = 1024`),
			`f:3:23: 1024: a NUMA node has a number from 0 to 1023`},
		{"node is no number", inMatch(`numa_node = "0"`),
			`f:3:23: "0": a string, where the number of a NUMA node should be`},

		{"dsn of another form", inMatch(`dsn = "00:11:22:33:44:55:66:77"`),
			`f:3:17: "00:11:22:33:44:55:66:77": want eight pairs of hex digits as lspci prints them, such as 00-11-22-33-44-55-66-77`},
		{"dsn too short", inMatch(`dsn = "00-11-22-33-44-55-66"`),
			`f:3:17: "00-11-22-33-44-55-66": want eight pairs of hex digits as lspci prints them, such as 00-11-22-33-44-55-66-77`},
		{"dsn with a long pair", inMatch(`dsn = "0-011-22-33-44-55-66-77"`),
			`f:3:17: "0-011-22-33-44-55-66-77": want eight pairs of hex digits as lspci prints them, such as 00-11-22-33-44-55-66-77`},
		{"dsn bad hex", inMatch(`dsn = "00112233445566zz"`),
			`f:3:17: "00112233445566zz": want eight pairs of hex digits as lspci prints them, such as 00-11-22-33-44-55-66-77`},
		{"dsn zero", inMatch(`dsn = "00-00-00-00-00-00-00-00"`),
			`f:3:17: "00-00-00-00-00-00-00-00": no device has the serial number 0: it stands for none`},
		{"dsn decimal", inMatch(`dsn = 4822678189205111`),
			`f:3:17: 4822678189205111: want eight pairs of hex digits as lspci prints them, such as 00-11-22-33-44-55-66-77`},
		{"dsn is a list in a list", inMatch(`dsn = [[1]]`),
			`f:3:17: [[1]]: a list; want eight pairs of hex digits as lspci prints them, such as 00-11-22-33-44-55-66-77`},

		{"not empty", inMatch(`slot = "1", not = {}`),
			`f:3:29: {}: an empty match would match every device: name at least one key`},
		{"not in not", inMatch(`slot = "1", not = { slot = "2", not = { slot = "3" } }`),
			`f:3:43: not: not inside not: write these keys into match itself`},
		{"not is no table", inMatch(`slot = "1", not = "2"`),
			`f:3:29: "2": a string, where a table should be`},
		{"not with a fault", inMatch(`slot = "1", not = { vendor = 0x8086, slto = "2" }`),
			`f:3:48: slto: unknown key; did you mean "slot"?`},
		{"not alone takes everything else", inMatch(`not = { slot = "2" }`),
			`f:3:9: { not = { slot = "2" } }: a rule that binds must say what it takes: not alone takes every other device of the machine`},

		{"all at once", "[[rule]]\nname = \"r\"\nmatch = { slot = 1, vendor = 1 }\nacton = \"leave\"\n[[rule]]\nname = \"r\"\n",
			"f:3:18: 1: an integer; a slot is a string, such as \"7\" or \"1..24\"\n" +
				"f:3:30: 1: write an ID in hex; did you mean 0x0001?\n" +
				"f:4:1: acton: unknown key; did you mean \"action\"?\n" +
				"f:5:1: [[rule]]: the rule has no match\n" +
				`f:6:8: "r": the rule at f:1 has this name already`},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := Parse("f", []byte(c.text))
			if err == nil {
				t.Fatalf("accepted %q", c.text)
			}
			if p != nil {
				t.Error("a policy beside the error")
			}
			if err.Error() != c.want {
				t.Errorf("got\n%v\nwant\n%s\nfor\n%s", err, c.want, c.text)
			}
		})
	}
}

func TestFaultsAreErrorsOfTheirOwn(t *testing.T) {
	_, err := Parse("f", []byte("x = 1\ny = 2\n"))
	var faults Faults
	if !errors.As(err, &faults) || len(faults) != 2 {
		t.Fatalf("want two Faults, got %#v", err)
	}
	want := Fault{File: "f", Line: 2, Column: 1, Text: "y", Message: "unknown table or key; a policy is made of [[rule]] tables and one [guard]"}
	if faults[1] != want {
		t.Errorf("got %+v, want %+v", faults[1], want)
	}
	var first Fault
	if !errors.As(err, &first) || first != faults[0] {
		t.Errorf("errors.As finds %+v", first)
	}
}
