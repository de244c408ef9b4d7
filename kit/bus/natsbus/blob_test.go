package natsbus_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/lockstep-fleet/lockstep/kit/bus"
)

func testBlobs(t *testing.T, w *world) {
	w.withBlobs(t)
	data := bytes.Repeat([]byte("0123456789abcdef"), 40_000) // several chunks
	put := func(data []byte) string {
		t.Helper()
		name, err := w.PutBlob(limited(t), blobs, data)
		if err != nil {
			t.Fatal(err)
		}
		return name
	}
	large, empty := put(data), put(nil)
	expect(t, "the name of nothing", empty, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
	s, err := w.js.Stream(limited(t), "OBJ_"+blobs)
	if err != nil {
		t.Fatal(err)
	}
	size := func() uint64 {
		info, err := s.Info(limited(t))
		if err != nil {
			t.Fatal(err)
		}
		return info.State.LastSeq
	}
	before := size()
	expect(t, "name of a repeat", put(data), large)
	expect(t, "messages after a repeat", size(), before)
	for want, name := range map[string]string{string(data): large, "": empty} {
		got, err := w.GetBlob(limited(t), blobs, name)
		if err != nil {
			t.Fatal(err)
		}
		expect(t, "data", string(got) == want, true)
	}

	if _, err := w.GetBlob(limited(t), blobs, strings.Repeat("0", 64)); !errors.Is(err, bus.ErrNotFound) {
		t.Errorf("a blob that was never stored: %v", err)
	}
}

func TestADamagedBlobIsToldAndMendedByStoringItAgain(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(*testing.T, jetstream.Stream) error{
		"a chunk is gone": func(t *testing.T, s jetstream.Stream) error { return s.DeleteMsg(limited(t), 2) },
		"all chunks are gone": func(t *testing.T, s jetstream.Stream) error {
			return s.Purge(limited(t), jetstream.WithPurgeSubject("$O."+blobs+".C.>"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := inProcess(t)(t).withBlobs(t)
			data := bytes.Repeat([]byte("0123456789abcdef"), 40_000)
			name, err := w.PutBlob(limited(t), blobs, data)
			if err != nil {
				t.Fatal(err)
			}
			s, err := w.js.Stream(limited(t), "OBJ_"+blobs)
			if err != nil {
				t.Fatal(err)
			}
			if err := damage(t, s); err != nil {
				t.Fatal(err)
			}
			ctx := limited(t)
			if _, err := w.GetBlob(ctx, blobs, name); err == nil || errors.Is(err, bus.ErrNotFound) || !strings.Contains(err.Error(), name) {
				t.Errorf("reading it: %v", err)
			}
			if ctx.Err() != nil {
				t.Fatal("reading it did not end by itself")
			}
			if _, err := w.PutBlob(limited(t), blobs, data); err != nil {
				t.Fatal(err)
			}
			got, err := w.GetBlob(limited(t), blobs, name)
			if err != nil {
				t.Fatal(err)
			}
			expect(t, "mended", bytes.Equal(got, data), true)
		})
	}
}
