package policy

// glob matches text against pattern, all of it: * stands for any number of
// characters, ? for one, everything else for itself. It compares bytes, and
// takes at most len(pattern)*len(text) steps.
func glob[T string | []byte](pattern string, text T) bool {
	p, t := 0, 0
	star, resume := -1, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, resume = p, t
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == text[t]):
			p, t = p+1, t+1
		case star >= 0:
			resume++
			p, t = star+1, resume
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}
