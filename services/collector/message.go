package collector

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// message is one record of the spool: a batch as it will be published, and what
// has to be known of it without decoding it. On disk it is
//
//	format (1)  observations  sequence  length of subject  subject  batch
//
// with numbers as varints.
type message struct {
	observations uint64
	sequence     uint64
	// subject is that of its source, part and kind, so sequences count per subject.
	subject string
	batch   []byte
}

const messageFormat = 1

var errMessage = errors.New("the record is no message of this format")

func decodeMessage(record []byte) (m message, err error) {
	if len(record) == 0 || record[0] != messageFormat {
		return message{}, errMessage
	}
	rest := record[1:]
	for _, number := range []*uint64{&m.observations, &m.sequence} {
		n := 0
		if *number, n = binary.Uvarint(rest); n <= 0 {
			return message{}, errMessage
		}
		rest = rest[n:]
	}
	length, n := binary.Uvarint(rest)
	if n <= 0 || length > uint64(len(rest)-n) {
		return message{}, errMessage
	}
	m.subject, m.batch = string(rest[n:n+int(length)]), rest[n+int(length):]
	return m, nil
}

// kind is what the message holds.
func (m message) kind() fleet.Kind {
	return fleet.Kind(m.subject[strings.LastIndex(m.subject, ".")+1:])
}

// The fields of observation.v1.Batch, which is put together from observations that
// are encoded already.
const (
	fieldSource       = 1
	fieldIncarnation  = 2
	fieldSequence     = 3
	fieldPart         = 4
	fieldObservations = 5
)

// group is what becomes one message.
type group struct {
	kind   fleet.Kind
	part   uint32
	pieces []piece
	bytes  int
}

// record makes the group the message of a subject with a sequence.
func (g *group) record(subject string, source fleet.SourceID, incarnation string, sequence uint64) []byte {
	b := make([]byte, 1, g.bytes+len(subject)+len(source)+len(incarnation)+64)
	b[0] = messageFormat
	b = binary.AppendUvarint(b, uint64(len(g.pieces)))
	b = binary.AppendUvarint(b, sequence)
	b = binary.AppendUvarint(b, uint64(len(subject)))
	b = append(b, subject...)
	b = protowire.AppendTag(b, fieldSource, protowire.BytesType)
	b = protowire.AppendString(b, string(source))
	b = protowire.AppendTag(b, fieldIncarnation, protowire.BytesType)
	b = protowire.AppendString(b, incarnation)
	b = protowire.AppendTag(b, fieldSequence, protowire.VarintType)
	b = protowire.AppendVarint(b, sequence)
	if g.part != 0 {
		b = protowire.AppendTag(b, fieldPart, protowire.VarintType)
		b = protowire.AppendVarint(b, uint64(g.part))
	}
	for _, p := range g.pieces {
		b = append(b, p.field...)
	}
	return b
}

// ledger counts the messages of each subject over restarts, and gathers what was
// dropped of the spool.
type ledger struct {
	// sequences belongs to whoever appends.
	sequences map[string]uint64
	dropped   shortfalls
}

// Added remembers the sequence of a message that is on disk.
func (l *ledger) Added(record []byte) {
	if m, err := decodeMessage(record); err == nil {
		l.sequences[m.subject] = max(l.sequences[m.subject], m.sequence)
	}
}

// Dropped remembers what a message held that had to make room.
func (l *ledger) Dropped(record []byte) {
	if m, err := decodeMessage(record); err == nil {
		l.dropped.message(m)
	}
}

// Snapshot lists all sequences.
func (l *ledger) Snapshot() []byte {
	var b []byte
	for subject, sequence := range l.sequences {
		b = binary.AppendUvarint(b, uint64(len(subject)))
		b = append(b, subject...)
		b = binary.AppendUvarint(b, sequence)
	}
	return b
}

// Restore reads what Snapshot wrote.
func (l *ledger) Restore(snapshot []byte) error {
	l.sequences = make(map[string]uint64)
	for len(snapshot) > 0 {
		length, n := binary.Uvarint(snapshot)
		if n <= 0 || length > uint64(len(snapshot)-n) {
			return fmt.Errorf("reading the sequences that were used: %w", errMessage)
		}
		subject := string(snapshot[n : n+int(length)])
		snapshot = snapshot[n+int(length):]
		if l.sequences[subject], n = binary.Uvarint(snapshot); n <= 0 {
			return fmt.Errorf("reading the sequences that were used: %w", errMessage)
		}
		snapshot = snapshot[n:]
	}
	return nil
}
