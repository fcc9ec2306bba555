package inuse

import (
	"errors"
	"path"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"vfio-hotplug/internal/sysfs"
)

var memoryDevice = regexp.MustCompile(`^mem\d+$`)

// memory notes what memory of the device the machine has as its own: then nothing
// else may show of it, and no program has a node open.
func (l *look) memory() error {
	names, err := list(l.dir, ".")
	if err != nil {
		return err
	}
	for _, name := range names {
		switch {
		case memoryDevice.MatchString(name):
			bus, err := l.leadsTo(name + "/subsystem")
			if err != nil {
				return err
			}
			if bus == "cxl" || l.facts.Driver == "cxl_pci" {
				l.cxlMemory(name)
			}
		case strings.HasPrefix(name, "virtio"):
			driver, err := l.leadsTo(name + "/driver")
			if err != nil {
				return err
			}
			if driver == "virtio_mem" {
				l.report.use(Memory, name, "memory of the machine")
			}
		}
	}
	return nil
}

// leadsTo gives the last part of where a link below the device leads, "" where
// there is none.
func (l *look) leadsTo(link string) (string, error) {
	target, err := l.dir.Readlink(link)
	if sysfs.Gone(err) || errors.Is(err, syscall.EINVAL) {
		return "", nil
	}
	return path.Base(target), err
}

const cxlDevices = "bus/cxl/devices"

// cxlMemory notes what of a CXL device's memory its decoders have mapped: for the
// kernel's own use (kmem), for programs, or by the firmware
// (Documentation/ABI/testing/sysfs-bus-cxl).
func (l *look) cxlMemory(name string) {
	endpoints, err := l.cxlEndpoints(name)
	if err == nil && len(endpoints) == 0 {
		err = errors.New("no decoder of it is shown")
	}
	for _, endpoint := range endpoints {
		names, fault := list(l.sys, cxlDevices+"/"+endpoint)
		err = both(err, fault)
		for _, decoder := range names {
			if strings.HasPrefix(decoder, "decoder") {
				err = both(err, l.cxlDecoder(name, endpoint+"/"+decoder))
			}
		}
	}
	if err != nil {
		l.report.doubt("see what it is used for: cxl list -vvv", "what memory of %s the machine has cannot be told: %v", name, err)
	}
}

// cxlEndpoints gives the endpoints, which have the decoders, of a CXL device.
func (l *look) cxlEndpoints(name string) ([]string, error) {
	all, err := list(l.sys, cxlDevices)
	var ours []string
	for _, endpoint := range all {
		if !strings.HasPrefix(endpoint, "endpoint") {
			continue
		}
		port, fault := l.sys.Readlink(cxlDevices + "/" + endpoint + "/uport")
		switch {
		case fault == nil && path.Base(port) == name:
			ours = append(ours, endpoint)
		case fault != nil && !sysfs.Gone(fault):
			err = both(err, fault)
		}
	}
	return ours, err
}

// cxlDecoder notes what a decoder maps.
func (l *look) cxlDecoder(name, where string) error {
	region, err := attribute(l.sys, cxlDevices+"/"+where+"/region")
	if err != nil && !sysfs.Gone(err) {
		return err
	}
	if region != "" {
		return l.cxlRegion(name, region)
	}
	text, err := attribute(l.sys, cxlDevices+"/"+where+"/size")
	if err != nil {
		return err
	}
	size, err := strconv.ParseUint(text, 0, 64)
	if size > 0 {
		l.report.use(Memory, name, path.Base(where))
	}
	return err
}

// cxlRegion notes a region, and the driver that has its memory.
func (l *look) cxlRegion(name, region string) error {
	where := cxlDevices + "/" + region + "/dax_" + region
	names, err := list(l.sys, where)
	before := len(l.report.Uses)
	for _, dax := range names {
		if driver, fault := l.sys.Readlink(where + "/" + dax + "/driver"); fault == nil {
			l.report.use(Memory, name, region, dax+" ("+path.Base(driver)+")")
		} else if !sysfs.Gone(fault) && !errors.Is(fault, syscall.ENOTDIR) {
			err = both(err, fault)
		}
	}
	if len(l.report.Uses) == before {
		l.report.use(Memory, name, region)
	}
	return err
}
