package akeyless

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"
	"unique"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

const (
	saveEvery = 5 * time.Minute
	// openFileFormat is the first word of the file; another one is another format.
	openFileFormat = "lockstep open sessions 1"
	// largestEntry, in bytes, is what a session in the file takes at most on average.
	largestEntry = 1 << 10
)

// entry is one open session in the file. Its status is left out: a session that is
// listed again is told again, as nobody knows what became of the last page.
type entry struct {
	ID       fleet.SessionID `json:"id"`
	Cluster  fleet.ClusterID `json:"cluster"`
	Start    time.Time       `json:"start"`
	User     string          `json:"user,omitempty"`
	Target   string          `json:"target,omitempty"`
	Instance string          `json:"instance,omitempty"`
	Protocol string          `json:"protocol,omitempty"`
	ToTarget string          `json:"target_type,omitempty"`
	// Promised stands alone in the first line: how far sessions had been promised.
	Promised time.Time `json:"promised,omitzero"`
}

// recall takes in the open sessions that an earlier reader saved. A file that
// cannot be read is as good as none. One that is old is as good as a new one while
// what has opened since is in the lookback; an end may be told twice. What began
// between it and the lookback is told as lost.
func (r *SessionReader) recall() {
	if r.openFile == "" {
		return
	}
	open, err := r.readOpen()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.client.log.Warn("the open sessions of an earlier run cannot be read; those that have ended since and started before the lookback are not told", "path", r.openFile, "error", err)
		return
	}
	maps.Copy(r.open, open)
}

func (r *SessionReader) readOpen() (map[fleet.SessionID]opened, error) {
	file, err := os.Open(r.openFile)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	in := json.NewDecoder(io.LimitReader(file, (int64(r.maxSessions)+1)*largestEntry))
	var format string
	if err := in.Decode(&format); err != nil || format != openFileFormat {
		return nil, errors.New("it is not a file of open sessions")
	}
	open := make(map[fleet.SessionID]opened)
	for len(open) < r.maxSessions {
		var e entry
		switch err := in.Decode(&e); {
		case errors.Is(err, io.EOF):
			return open, nil
		case err != nil:
			return nil, fmt.Errorf("session %d of the file: %w", len(open)+1, err)
		case !e.Promised.IsZero():
			r.before = e.Promised
			continue
		case e.ID == "" || e.Start.IsZero():
			return nil, fmt.Errorf("session %d of the file has no id or no start", len(open)+1)
		}
		if cluster, mapped := slices.BinarySearch(r.ids, e.Cluster); mapped {
			open[e.ID] = opened{
				start: instantOf(e.Start), cluster: uint32(cluster), user: unique.Make(e.User), target: unique.Make(e.Target),
				instance: unique.Make(e.Instance), protocol: unique.Make(e.Protocol), toTarget: unique.Make(e.ToTarget),
			}
		}
	}
	return open, nil
}

// Save writes the open sessions to OpenFile, for the next reader. Those that the
// last poll told to have ended are written too, as that page may not have reached
// anybody. Call it when no more polls are made; before the first one that
// succeeds there is nothing to write.
func (r *SessionReader) Save() error {
	if r.openFile == "" || !r.began {
		return nil
	}
	if err := r.writeOpen(); err != nil {
		return fmt.Errorf("save the open sessions to %s: %w", r.openFile, err)
	}
	return nil
}

// saveNowAndThen is for a process that is not asked to stop.
func (r *SessionReader) saveNowAndThen() {
	now := r.now()
	if r.openFile == "" || now.Sub(r.savedAt).Abs() < saveEvery {
		return
	}
	r.savedAt = now
	if err := r.Save(); err != nil {
		r.client.log.Warn("the open sessions are not saved; see that the folder is there and may be written to", "path", r.openFile, "error", err)
	}
}

func (r *SessionReader) writeOpen() (err error) {
	temp := r.openFile + ".new"
	file, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if closed := file.Close(); err == nil {
			err = closed
		}
		if err == nil {
			err = os.Rename(temp, r.openFile)
		}
	}()
	buffered := bufio.NewWriter(file)
	out := json.NewEncoder(buffered)
	if err := out.Encode(openFileFormat); err != nil {
		return err
	}
	if !r.complete.IsZero() {
		if err := out.Encode(struct {
			Promised time.Time `json:"promised"`
		}{r.complete}); err != nil {
			return err
		}
	}
	for _, sessions := range []map[fleet.SessionID]opened{r.open, r.left} {
		for id, o := range sessions {
			s := r.vanish(id, o)
			if err := out.Encode(entry{
				ID: id, Cluster: s.Cluster, Start: s.Start, User: s.User, Target: s.Target,
				Instance: string(s.InstanceID), Protocol: s.Protocol, ToTarget: s.TargetType,
			}); err != nil {
				return err
			}
		}
	}
	return buffered.Flush()
}
