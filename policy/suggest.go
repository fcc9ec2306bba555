package policy

import (
	"fmt"
	"strings"
)

// didYouMean ends a fault with a hint, if there is one: a word, or some of a policy
// file's text.
func didYouMean(near string) string {
	switch {
	case near == "":
		return ""
	case strings.ContainsAny(near, "=#"):
		return "; did you mean " + near + "?"
	}
	return fmt.Sprintf("; did you mean %q?", near)
}

// nearest gives the candidate that word was probably meant to be, or "". Case, -
// and _ do not count as differences.
func nearest(word string, candidates ...string) string {
	if len(word) > 40 {
		return ""
	}
	best, least := "", 3
	for _, c := range candidates {
		a, b := fold(word), fold(c)
		d := distance(a, b)
		if len(a) >= 4 && (strings.HasPrefix(b, a) || strings.HasPrefix(a, b)) {
			d = min(d, 1)
		}
		if d < least && 2*d < len(b) {
			best, least = c, d
		}
	}
	return best
}

func fold(s string) string {
	return strings.NewReplacer("-", "", "_", "", " ", "").Replace(strings.ToLower(s))
}

// distance counts the letters to insert, delete, replace or swap with their
// neighbour that make a into b.
func distance(a, b string) int {
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j]+cost, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
