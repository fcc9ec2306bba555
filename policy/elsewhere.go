package policy

import (
	"fmt"
	"regexp"
	"strings"
)

// What people write who come from other tools: lspci, udev, libvirt, driverctl,
// SPDK, OpenStack, Kubernetes.

// elsewhere gives what e is called here, in the words of a policy file: the keys
// of a match, or why there are none.
func elsewhere(e entry) (keys, why string) {
	word := fold(e.name)
	switch word {
	case "id", "ids", "pciid", "pciids", "vendordevice", "pcivendorselector":
		return idKeys(e.value, keyVendor, keyDevice)
	case "subsystemid", "subsysid", "subsystem", "ssid":
		return idKeys(e.value, keySubVendor, keySubDevice)
	}
	if word == "group" && e.value.kind == integerKind {
		word = "iommugroup"
	}
	if k := otherName(word); k != matched {
		return k.String(), ""
	}
	return "", noKey(word)
}

// otherName gives the key that goes by the name of a folded word elsewhere.
func otherName(word string) key {
	switch word {
	case "bdf", "sbdf", "addr", "addresses", "pci", "pciaddress", "pciaddresses", "pcislotname", "busid", "pcibusid", "host", "path":
		return keyAddress
	case "domain", "bus", "function":
		return keyAddress
	case "vid", "vendors", "vendorid", "vendorids":
		return keyVendor
	case "did", "devices", "deviceid", "deviceids", "productid":
		return keyDevice
	case "subvendor", "svendor", "subsysvendor", "subvendorid", "subsystemvendorid":
		return keySubVendor
	case "subdevice", "sdevice", "subsysdevice", "subdeviceid", "subsystemdeviceid":
		return keySubDevice
	case "type", "classcode", "pciclass", "classes":
		return keyClass
	case "bay", "bays", "slots", "physlot", "physicalslot", "enclosure":
		return keySlot
	case "upstream", "upstreamport", "parent", "bridge", "port", "rootport", "downstreamport":
		return keyBehind
	case "pf", "parentpf", "physicalfunction", "rootdevice", "rootdevices":
		return keyPhysFn
	case "node":
		return keyNUMA
	case "deviceserialnumber":
		return keyDSN
	case "except", "exclude", "unless":
		return keyNot
	}
	return matched
}

// noKey says why there is no key for a folded word, "" where it is not known.
func noKey(word string) string {
	switch word {
	case "serial", "serialnumber", "sn", "idserial", "idserialshort":
		return "the serial number of a drive is known only when a driver has read it: there is " +
			keyDSN.String() + ", the PCIe Device Serial Number that lspci -vv shows"
	case "model", "modelnumber", "mn", "idmodel", "product", "productname", "devicename":
		return "the model of a drive is known only when a driver has read it: " +
			"the models are told apart by vendor and device, which lspci -nn shows"
	case "size", "capacity", "firmware", "firmwarerev", "fw", "wwn", "wwid", "eui", "eui64", "nguid", "nqn", "subnqn", "uuid", "label", "fstype",
		"filesystem", "mac", "macaddress":
		return "this is known only when a driver has read the device: name it by its address, slot or IDs"
	case "kernel", "devname", "interface", "ifname", "netdev", "disk", "drive", "block", "pfname", "pfnames", "byid":
		return "a name such as eth0 or nvme0n1 comes from the driver that has the device: there is address, which vfio-hotplug explain shows for such a name"
	case "iommugroup", "iommu", "iommugroups":
		return "the numbers of IOMMU groups change: name the device by its address, slot or IDs; " +
			"a rule's group = \"with\" takes the others of its group along"
	}
	return ""
}

// idPair is a pair of IDs as lspci -nn prints it, or two of them, the second of the
// subsystem.
var idPair = regexp.MustCompile(`^(?:0x)?([0-9a-fA-F]{4})[: ](?:0x)?([0-9a-fA-F]{4})(?:[: ]([0-9a-fA-F]{4})[: ]([0-9a-fA-F]{4}))?$`)

// idKeys gives the keys that stand for a pair of IDs.
func idKeys(n *node, vendor, device key) (keys, why string) {
	value := n
	if n.kind == listKind && len(n.items) > 0 {
		value = n.items[0]
	}
	if keys = pairKeys(value.text, vendor, device); keys == "" {
		return "", fmt.Sprintf("the IDs are keys of their own: %s = 0x144d, %s = 0xa808, as lspci -nn shows them", vendor, device)
	}
	if n.kind == listKind && len(n.items) > 1 {
		keys += ", in a rule for each pair"
	}
	return keys, ""
}

// pairKeys writes a pair of IDs as two keys, or as four; "" where it is none.
func pairKeys(text string, vendor, device key) string {
	parts := idPair.FindStringSubmatch(text)
	if parts == nil {
		return ""
	}
	keys := fmt.Sprintf("%s = 0x%s, %s = 0x%s", vendor, strings.ToLower(parts[1]), device, strings.ToLower(parts[2]))
	if parts[3] != "" && vendor == keyVendor {
		keys += fmt.Sprintf(", %s = 0x%s, %s = 0x%s", keySubVendor, strings.ToLower(parts[3]), keySubDevice, strings.ToLower(parts[4]))
	}
	return keys
}

// ruleElsewhere gives the key of a rule that goes by the name of word elsewhere, or
// what to write instead.
func ruleElsewhere(word string) string {
	switch fold(word) {
	case "driveroverride", "override", "targetdriver", "bindto", "to":
		return "driver"
	case "description", "comment", "note":
		return "# before a comment"
	case "ignore", "block", "blocked", "blacklist", "deny", "skip", "pciblocked":
		return `action = "leave"`
	case "allow", "allowed", "whitelist", "pciallowed":
		return `action = "bind"`
	case "force", "inuse":
		return "takeover"
	}
	return ""
}
