package journal

import "log/slog"

// MessageID names a kind of message for good, whatever its words become:
// 128 random bits in hex, as journald's field MESSAGE_ID wants them
// (systemd.journal-fields(7)). `journalctl MESSAGE_ID=…` finds every message
// of that kind, and a message catalogue can explain it.
type MessageID string

// The kinds of message. A constant here never changes once it was released.
const (
	// MessageDirect: a device came up on the policy's driver and no other driver touched it.
	MessageDirect MessageID = "118ba14e3ceedb420c13063f1aaab35c"
	// MessageTaken: a device was taken from the driver that had it first.
	MessageTaken MessageID = "a51d30958397690aea53973718b491fe"
	// MessageAlready: a device was on the policy's driver before we looked.
	MessageAlready MessageID = "b9035985f405c12c5f001918ab75b382"
	// MessageLeft: a device stays where it is, because the policy or a hand says so.
	MessageLeft MessageID = "b8d4473e324b6430b5e2d44b1c326fd4"
	// MessageRefused: a device that the policy names stays where it is, for safety.
	MessageRefused MessageID = "e8d9fd3e0e8709c4260350db8d04cd29"
	// MessageFailed: a device could not be bound and is again as it was found.
	MessageFailed MessageID = "e67dd06021a0e94523ca64236f9027d7"
	// MessageStuck: the kernel did not come back from an operation on a device.
	MessageStuck MessageID = "ccfa3d245ca57820fe599926503f2dd2"
	// MessageHeld: the kernel does not come to the end of taking a device from its driver, or has come to it.
	MessageHeld MessageID = "4c511468108bd186bb69194db78b6147"
	// MessageGone: a device was unplugged while it was worked on.
	MessageGone MessageID = "b986d7be942dfc641ccd8f3ea9ea4418"
	// MessageReleased: a device was given back to the driver it came from.
	MessageReleased MessageID = "e432d694738e8b45a96d7ebe00b2c586"
	// MessagePolicyLoaded: a policy was read and is now in force.
	MessagePolicyLoaded MessageID = "6b84840ada9a8c43246fe140577b0533"
	// MessagePolicyBad: a policy has faults; the one before it stays in force.
	MessagePolicyBad MessageID = "35a35f85de7bd3538d57995457e64c70"
	// MessageOverrun: the kernel's event queue overflowed; every device is looked at again.
	MessageOverrun MessageID = "18eae516e3f72e1a38df34f5c5eeffa2"
	// MessageStarted: the daemon has looked at every device and is ready.
	MessageStarted MessageID = "7dab8372bda234a77374c6a615ff4e8c"
	// MessageStopped: the daemon ends; what is bound stays bound.
	MessageStopped MessageID = "58137f22d323888a9eaa9a74ab5bef7f"
	// MessageGuard: a guard was chosen and armed, or could not be.
	MessageGuard MessageID = "15c09cf440dab460b20361d85da59538"
	// MessageGuardMissed: another driver touched a device although a guard was armed.
	MessageGuardMissed MessageID = "22e799e7254354c24d6b43a3ea1b9c20"
	// MessageNotViable: a device is bound, but another of its IOMMU group keeps programs from it.
	MessageNotViable MessageID = "057f9e70da80704bda3300a4eb31e40c"
	// MessageViable: nobody keeps programs from it any more.
	MessageViable MessageID = "a2a1da4602e0caf9f9723088d563b6de"
	// MessageDropped: journald did not take entries for a while, and some were dropped.
	MessageDropped MessageID = "6651e3d5466e44c4460ec657de8f3436"
)

// Attr makes the attribute that gives a record its kind. It becomes the field
// MESSAGE_ID in the journal, in whatever group it stands, and is not shown in
// readable text.
func (id MessageID) Attr() slog.Attr { return slog.Any("message_id", id) }
