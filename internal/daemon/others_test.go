package daemon_test

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"vfio-hotplug/internal/control"
	"vfio-hotplug/internal/sysfstest"
)

// reportTo is what status tells a user.
func (h *house) reportTo(uid uint32) (control.StatusReply, string) {
	h.t.Helper()
	call := control.NewCall(control.MethodStatus, []byte(`{"all":true}`))
	call.Peer.UID = uid
	reply, err := h.daemon.Handlers(h.running)[control.MethodStatus].Handle(h.t.Context(), call)
	if err != nil {
		h.t.Fatal(err)
	}
	text, err := json.Marshal(reply)
	if err != nil {
		h.t.Fatal(err)
	}
	return reply.(control.StatusReply), string(text)
}

// TestOthersThanRootAreToldTheCheckAlone: who may not look into another's
// process, at its mounts or at a drive does not learn of them from us; what was
// decided, and by which check, everybody may know.
func TestOthersThanRootAreToldTheCheckAlone(t *testing.T) {
	const anybody = 65534
	for _, c := range []struct {
		name   string
		do     func(t *testing.T, h *house)
		secret string // root is told
		want   control.Device
	}{
		{"in use", func(t *testing.T, h *house) {
			h.Plug(bayAt(1), sysfstest.Drive{})
			h.uses.mount(1, "nvme0n1p2 LABEL=payroll", "/srv/payroll")
			h.start()
			time.Sleep(time.Second)
		}, "payroll", control.Device{Outcome: "refused", Reason: "in use; root is told more"}},
		{"not settled", func(t *testing.T, h *house) {
			h.Plug(bayAt(1), sysfstest.Drive{})
			h.uses.settle(1, false)
			h.start()
			time.Sleep(10 * time.Minute)
		}, "nvme0 is new", control.Device{Outcome: "refused", Reason: "in use; root is told more"}},
		{"held by a program", func(t *testing.T, h *house) {
			h.start()
			h.plug(1)
			time.Sleep(time.Second)
			t.Cleanup(h.openVFIO(1).letGo)
			go h.Root().Write("bus/pci/drivers/vfio-pci/unbind", bayAt(1).String())
			time.Sleep(20 * time.Second)
		}, us(), control.Device{Outcome: "stuck", Reason: "leaving its driver; root is told more, for "}},
		{"a failure", func(t *testing.T, h *house) {
			h.FailProbe("vfio-pci", bayAt(1), syscall.EIO)
			h.Plug(bayAt(1), sysfstest.Drive{})
			h.start()
			time.Sleep(10 * time.Second)
		}, "input/output error", control.Device{Outcome: "failed", Reason: "root is told why"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := build(t, 1, sysfstest.Options{Release: sysfstest.Linux73}, everyNVMe)
				c.do(t, h)
				if _, text := h.reportTo(0); !strings.Contains(text, c.secret) {
					t.Errorf("root is not told of %q: %s", c.secret, text)
				}
				reply, text := h.reportTo(anybody)
				if strings.Contains(text, c.secret) {
					t.Errorf("anybody is told of %q: %s", c.secret, text)
				}
				for _, d := range reply.Devices {
					if d.Address == bayAt(1).String() && (d.Outcome != c.want.Outcome || !strings.HasPrefix(d.Reason, c.want.Reason) || d.Remedy != "sudo vfio-hotplug status") {
						t.Errorf("anybody is told %+v, want %+v", d, c.want)
					}
				}
				h.end()
			})
		})
	}
}

// TestOthersThanRootAreToldWhatThePolicySays: of what nobody but us decided
// nothing is kept back.
func TestOthersThanRootAreToldWhatThePolicySays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 4, sysfstest.Options{}, someNVMe)
		for bay := 1; bay <= 4; bay++ {
			h.Plug(bayAt(bay), sysfstest.Drive{})
		}
		h.start()
		time.Sleep(time.Second)
		h.command(control.MethodRelease, 1)
		_, root := h.reportTo(0)
		if _, anybody := h.reportTo(1000); anybody != root {
			t.Errorf("root is told\n%s\nand anybody\n%s", root, anybody)
		}
		h.end()
	})
}
