package gate

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// Link is what a decision adds to the chain of its cluster's decisions: who changes
// one that was recorded, or leaves it out, changes the hash of all that follow.
type Link struct {
	Gate           string
	Verdict        Verdict
	PolicyHash     string
	EvidenceHash   string
	Seq            uint64 // of the stream, as the decision had seen it
	DeadlinePassed bool
	// StageHash is that of all checks together, empty for a decision on people's
	// sessions alone.
	StageHash string
	// ControlsHash is that of what controls said, empty where none were asked.
	ControlsHash string
}

// Hash returns the SHA-256 of a link behind the decision with the given hash, in
// hex; the first of a cluster stands behind an empty one. A link without a stage's
// hash, or that of controls, has the hash that it had before there were any.
func (l Link) Hash(previous string) string {
	b := fmt.Appendf(nil, "lockstep gate decision 1\nprevious %q\ngate %q\nverdict %q\npolicy %q\nevidence %q\nseq %d\ndeadline_passed %t\n",
		previous, l.Gate, string(l.Verdict), l.PolicyHash, l.EvidenceHash, l.Seq, l.DeadlinePassed)
	if l.StageHash != "" {
		b = fmt.Appendf(b, "stage %q\n", l.StageHash)
	}
	if l.ControlsHash != "" {
		b = fmt.Appendf(b, "controls %q\n", l.ControlsHash)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
