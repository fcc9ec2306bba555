package scenario

import (
	"path"
	"strings"
	"syscall"

	"vfio-hotplug/internal/vmtest"
)

// worksInItsSandbox has the service do what its unit's sandbox is most likely to
// forbid: see a mount below /home, and a node that another user's process has
// open; read a serial number beyond what everybody may read of config space; and
// give a node to its group.
func (h *house) worksInItsSandbox() {
	h.t.Helper()
	const mountBay, openBay, cardBay = stormBay, stormBay + 1, stormBay + 2
	h.Do("systemctl", "stop", service)
	h.plugForNVMe(mountBay)
	h.plugForNVMe(openBay)
	h.mounted(h.block(mountBay), "/home/somebody")
	disk := h.block(openBay)
	reader := h.startOpener(`exec setpriv --reuid=65534 --regid=65534 --clear-groups sleep infinity <"$1"`, disk, "sleep")
	card := vmtest.NIC()
	card.Props["mac"] = "52:54:00:12:34:56" // of which QEMU's card makes its serial number
	h.Plug(cardBay, card)
	h.CreateFile(localRules, "\n[[rule]]\nname = \"card\"\naction = \"leave\"\nmatch = { dsn = \"52-54-00-ff-ff-12-34-56\" }\n"+bayRules(), 0o644)

	h.Do("systemctl", "start", service)
	h.because(h.Address(mountBay), path.Base(h.block(mountBay))+" → /home/somebody")
	h.because(h.Address(openBay), path.Base(disk)+" → sleep (process ")
	h.tellsNobodyElse("/home/somebody", "sleep", path.Base(disk))
	if d := h.settled(cardBay, "left"); d.Rule != "card" {
		h.t.Errorf("the card with its serial number is %s by rule %q", d.Outcome, d.Rule)
	}
	h.wantNode(h.taken(stubBay, "vfio-pci").Node, "vfio")

	h.Do("umount", "/home/somebody")
	reader.Signal(syscall.SIGKILL)
	reader.Wait()
	h.taken(openBay, "vfio-pci") // its last user has gone
	for _, bay := range []int{mountBay, openBay, cardBay} {
		h.Unplug(bay)
	}
	h.rules(bayRules())
	h.guard("stub")
}

// tellsNobodyElse checks that who is not root is told that a drive is in use, and
// none of these words.
func (h *house) tellsNobodyElse(words ...string) {
	h.t.Helper()
	said := h.Do("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", program, "status", "--json")
	if !strings.Contains(said, `"reason": "in use; root is told more"`) {
		h.t.Errorf("status does not tell nobody of a drive in use:\n%s", said)
	}
	for _, word := range words {
		if strings.Contains(said, word) {
			h.t.Errorf("status tells nobody of %q:\n%s", word, said)
		}
	}
}
