package operate

// What those are told who are not root. What a check found may name processes,
// mount points and labels that they may not see for themselves (hidepid= of
// proc(5), another's mount namespace, the contents of a drive). So they get its
// name, and how to learn more.

const (
	rootKnowsMore = "; root is told more"
	rootKnowsWhy  = "root is told why"
	askAsRoot     = "sudo vfio-hotplug status"
)

// ForOthers is the check for those who are not root.
func (c Check) ForOthers() Check {
	c.Text, c.Remedy = c.Name+rootKnowsMore, askAsRoot
	return c
}

// policyCheck stands for the policy, which looks at nothing but the device.
const policyCheck = "policy"

// ForOthers is the result for those who are not root. A reason that is neither a
// check's nor the policy's is left out.
func (r Result) ForOthers() Result {
	switch {
	case r.Check == policyCheck:
	case r.Check != "":
		r.Reason, r.Remedy = r.Check+rootKnowsMore, askAsRoot
	case r.Outcome == Refused || r.Outcome == Failed || r.Outcome == Stuck:
		r.Reason, r.Remedy = rootKnowsWhy, askAsRoot
	default:
		r.Reason, r.Remedy = "", ""
	}
	return r
}
