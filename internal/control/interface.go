// Package control is the daemon's local socket: a small server and client that
// speak varlink (https://varlink.org) over a unix socket. It moves calls and
// replies; what they do is up to the handlers.
package control

import (
	"context"
	_ "embed"
	"maps"
	"slices"
	"strings"
)

// Interface is the name of the daemon's interface; io.vfiohotplug.varlink
// describes it.
const Interface = "io.vfiohotplug"

// Methods of the interface.
const (
	MethodStatus  = Interface + ".Status"
	MethodBind    = Interface + ".Bind"
	MethodRelease = Interface + ".Release"
)

// ErrorFailed is the interface's error, besides those of org.varlink.service.
// What became of a device is no error but an outcome.
const ErrorFailed = Interface + ".Failed"

// Device is one PCI function as Status, Bind and Release tell it. The
// interface file says what each field means.
type Device struct {
	Address     string `json:"address"`
	Slot        string `json:"slot,omitempty"`
	ID          string `json:"id,omitempty"`
	Class       string `json:"class,omitempty"`
	NUMANode    *int   `json:"numa_node,omitempty"`
	Driver      string `json:"driver,omitempty"`
	From        string `json:"from,omitempty"`
	IOMMUGroup  *int   `json:"iommu_group,omitempty"`
	Node        string `json:"node,omitempty"`
	Rule        string `json:"rule,omitempty"`
	Outcome     string `json:"outcome,omitempty"`
	Reason      string `json:"reason,omitempty"`
	Remedy      string `json:"remedy,omitempty"`
	LatencyUsec int64  `json:"latency_usec,omitempty"`

	Along  []string `json:"along,omitempty"`
	Barred string   `json:"barred,omitempty"`
}

// StatusRequest is what Status takes.
type StatusRequest struct {
	All bool `json:"all,omitempty"`
}

// StatusReply is what Status gives.
type StatusReply struct {
	Devices []Device `json:"devices"`
	Faults  []string `json:"faults,omitempty"`
	Guard   *Guard   `json:"guard,omitempty"`
}

// Guard is what keeps other drivers from a new device.
type Guard struct {
	Mode   string `json:"mode"`
	Reason string `json:"reason"`
	Remedy string `json:"remedy,omitempty"`
	// Pending says that it is not in force: it is being armed, or could not be.
	Pending bool `json:"pending,omitempty"`
}

// BindRequest is what Bind takes.
type BindRequest struct {
	Address  string `json:"address"`
	Driver   string `json:"driver,omitempty"`
	Takeover string `json:"takeover,omitempty"`
}

// ReleaseRequest is what Release takes.
type ReleaseRequest struct {
	Address string `json:"address"`
}

// DeviceReply is what Bind and Release give.
type DeviceReply struct {
	Device Device `json:"device"`
}

// Failure is what ErrorFailed carries.
type Failure struct {
	Reason string `json:"reason"`
}

//go:embed io.vfiohotplug.varlink
var description string

//go:embed org.varlink.service.varlink
var serviceDescription string

// Info is what the daemon says of itself to GetInfo.
type Info struct {
	Vendor  string `json:"vendor"`
	Product string `json:"product"`
	Version string `json:"version"`
	URL     string `json:"url"`
}

const service = "org.varlink.service"

// withService adds the two methods that every varlink service has.
func withService(info Info, handlers map[string]Handler) map[string]Handler {
	descriptions := map[string]string{Interface: description, service: serviceDescription}
	all := maps.Clone(handlers)
	if all == nil {
		all = map[string]Handler{}
	}
	all[service+".GetInfo"] = Handler{Handle: func(context.Context, *Call) (any, error) {
		return struct {
			Info
			Interfaces []string `json:"interfaces"`
		}{info, slices.Sorted(maps.Keys(descriptions))}, nil
	}}
	all[service+".GetInterfaceDescription"] = Handler{Handle: func(_ context.Context, c *Call) (any, error) {
		var in struct {
			Interface string `json:"interface"`
		}
		if err := c.Decode(&in); err != nil {
			return nil, err
		}
		text, ok := descriptions[in.Interface]
		if !ok {
			return nil, NewError(service+".InterfaceNotFound", map[string]string{"interface": in.Interface})
		}
		return map[string]string{"description": text}, nil
	}}
	return all
}

// find gives the handler of a method, or varlink's error for why there is
// none.
func find(handlers map[string]Handler, method string) (Handler, error) {
	if h, ok := handlers[method]; ok {
		return h, nil
	}
	name := method[:max(strings.LastIndexByte(method, '.'), 0)]
	for known := range handlers {
		if strings.HasPrefix(known, name+".") && !strings.Contains(known[len(name)+1:], ".") {
			return Handler{}, NewError(service+".MethodNotFound", map[string]string{"method": method})
		}
	}
	return Handler{}, NewError(service+".InterfaceNotFound", map[string]string{"interface": name})
}
