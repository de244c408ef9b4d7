package rpc_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"connectrpc.com/connect/v2"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/kit/rpc"
)

func TestAMessageOverTheLimitIsRefused(t *testing.T) {
	t.Parallel()
	var called atomic.Int32
	fn := func(context.Context, string) (string, error) { called.Add(1); return "", nil }
	url, _ := serve(t, rpc.Options{}, unary(say(), fn),
		streamed(count(), func(context.Context, func(string) error) error { called.Add(1); return nil }))
	const room = 16 // for the field's tag and length
	for _, d := range dialects() {
		client := d.client(t, url, "Bearer "+viewer)
		if _, err := ask(t, client, say(), strings.Repeat("x", rpc.MaxMessage-room)); err != nil {
			t.Errorf("%s, just below the limit: %v", d.name, err)
		}
		_, err := ask(t, client, say(), strings.Repeat("x", rpc.MaxMessage))
		refused(t, d.name, err, connect.CodeResourceExhausted, "LS-API-008", "larger than 4 MiB")
		stream, err := client.CallServerStream(t.Context(), count(), wrapperspb.String(strings.Repeat("x", rpc.MaxMessage)))
		if err != nil {
			t.Fatal(err)
		}
		refused(t, d.name+", a stream", stream.Receive(&wrapperspb.StringValue{}), connect.CodeResourceExhausted, "LS-API-008", "larger than 4 MiB")
		if err := stream.Close(); err != nil {
			t.Error(err)
		}
	}
	if n := called.Load(); n != int32(len(dialects())) {
		t.Errorf("%d calls arrived, want %d", n, len(dialects()))
	}
}

// zeros is a body that counts what was taken of it. First comes its head.
type zeros struct {
	head  []byte
	left  int64
	taken atomic.Int64
}

func (z *zeros) Read(p []byte) (int, error) {
	if n := copy(p, z.head); n > 0 {
		z.head = z.head[n:]
		return n, nil
	}
	n := min(int64(len(p)), z.left-z.taken.Load())
	if n == 0 {
		return 0, io.EOF
	}
	clear(p[:n])
	z.taken.Add(n)
	return int(n), nil
}

func (z *zeros) Close() error { return nil }

// bomb is zeros of 256 MiB, compressed to a thousandth of that.
func bomb(t *testing.T) []byte {
	t.Helper()
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(w, &zeros{left: 256 << 20}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if packed.Len() > rpc.MaxMessage {
		t.Fatalf("the bomb has %d bytes", packed.Len())
	}
	return packed.Bytes()
}

func enveloped(flags byte, message []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{flags}, uint32(len(message))), message...)
}

// answerOf is the error in an answer, whatever it is wrapped in.
func answerOf(t *testing.T, res *http.Response) string {
	t.Helper()
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(res.Header.Get("Content-Type"), "application/connect+") && answer[0]&1 == 1 {
		unpacked, err := gzip.NewReader(bytes.NewReader(answer[5:]))
		if err != nil {
			t.Fatal(err)
		}
		if answer, err = io.ReadAll(unpacked); err != nil {
			t.Fatal(err)
		}
	}
	return string(answer) + res.Trailer.Get("Grpc-Message")
}

// What a hostile caller sends costs the server neither memory nor its life. The
// test runs alone, because it measures what is allocated meanwhile.
func TestAHugeRequestCostsLittle(t *testing.T) {
	url, _ := serve(t, rpc.Options{}, unary(say(), func(context.Context, string) (string, error) {
		t.Error("the handler was called")
		return "", nil
	}), streamed(count(), func(context.Context, func(string) error) error {
		t.Error("the handler was called")
		return nil
	}))
	const huge = 64 << 20
	packed := bomb(t)
	small := func(raw []byte) (io.ReadCloser, int64) { return io.NopCloser(bytes.NewReader(raw)), int64(len(raw)) }
	for _, c := range []struct {
		name   string
		http2  bool
		path   string
		header map[string]string
		body   func() (io.ReadCloser, int64)
	}{
		{"64 MiB that are announced", false, say().Procedure, map[string]string{"Content-Type": "application/proto"},
			func() (io.ReadCloser, int64) { return &zeros{left: huge}, huge }},
		{"64 MiB that are announced, over HTTP/2", true, say().Procedure, map[string]string{"Content-Type": "application/proto"},
			func() (io.ReadCloser, int64) { return &zeros{left: huge}, huge }},
		{"no end and no announced length", false, say().Procedure, map[string]string{"Content-Type": "application/proto"},
			func() (io.ReadCloser, int64) { return &zeros{left: 1 << 50}, -1 }},
		{"no end and no announced length, over HTTP/2", true, say().Procedure, map[string]string{"Content-Type": "application/proto"},
			func() (io.ReadCloser, int64) { return &zeros{left: 1 << 50}, -1 }},
		{"no end, for a stream", false, count().Procedure, map[string]string{"Content-Type": "application/connect+proto"},
			func() (io.ReadCloser, int64) {
				return &zeros{head: []byte{0, 0xff, 0xff, 0xff, 0xff}, left: 1 << 50}, -1
			}},
		{"a gzip bomb", false, say().Procedure, map[string]string{"Content-Type": "application/proto", "Content-Encoding": "gzip"},
			func() (io.ReadCloser, int64) { return small(packed) }},
		{"a gzip bomb for a stream", false, count().Procedure, map[string]string{"Content-Type": "application/connect+proto", "Connect-Content-Encoding": "gzip"},
			func() (io.ReadCloser, int64) { return small(enveloped(1, packed)) }},
		{"a gzip bomb over gRPC", true, say().Procedure, map[string]string{"Content-Type": "application/grpc+proto", "Grpc-Encoding": "gzip"},
			func() (io.ReadCloser, int64) { return small(enveloped(1, packed)) }},
	} {
		transport := carrier(t, c.http2)
		body, length := c.body()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+c.path, body)
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = length
		req.Header.Set("Authorization", "Bearer "+viewer)
		for key, value := range c.header {
			req.Header.Set(key, value)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		res, err := transport.RoundTrip(req)
		if err != nil {
			// A server that hangs up in the middle of a request may be overheard.
			t.Logf("%s: %v", c.name, err)
		} else {
			answer := answerOf(t, res)
			if !strings.Contains(answer, "LS-API-008") {
				t.Errorf("%s: %s %s", c.name, res.Status, answer)
			}
		}
		runtime.ReadMemStats(&after)
		if spent := after.TotalAlloc - before.TotalAlloc; spent > 40<<20 {
			t.Errorf("%s: it cost %d MiB", c.name, spent>>20)
		}
		if z, ok := body.(*zeros); ok && z.taken.Load() > huge/2 {
			t.Errorf("%s: %d MiB were taken", c.name, z.taken.Load()>>20)
		}
		transport.CloseIdleConnections()
	}
	if _, err := call(t, url, "Bearer nobody", ""); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("after all that: %v", err)
	}
}

func TestARequestThatCannotBeReadIsRefusedInWords(t *testing.T) {
	t.Parallel()
	url, _ := serve(t, rpc.Options{}, unary(say(), func(context.Context, string) (string, error) {
		t.Error("the handler was called")
		return "", nil
	}))
	for name, c := range map[string]struct{ kind, encoding, body string }{
		"no protobuf":     {"proto", "", "\xff\xff\xff\xff"},
		"no JSON":         {"json", "", "{"},
		"no gzip":         {"proto", "gzip", "hello"},
		"half a gzip":     {"proto", "gzip", "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"},
		"no UTF-8":        {"proto", "", "\x0a\x01\xff"},
		"JSON of a type":  {"json", "", `{"value": 7}`},
		"a cut off field": {"proto", "", "\x0a\x7fabc"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+say().Procedure, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+viewer)
		req.Header.Set("Content-Type", "application/"+c.kind)
		req.Header.Set("Content-Encoding", c.encoding)
		res, err := carrier(t, false).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != http.StatusBadRequest || !strings.Contains(string(body), "LS-API-010: the request cannot be read: ") {
			t.Errorf("%s: %s %s %v", name, res.Status, body, err)
		}
	}
}

// ruled describes a message whose schema has rules: name must be given, shares
// are between 1 and 100 and at most 20 in number, and the first is the largest.
func ruled(t *testing.T) protoreflect.MessageDescriptor {
	t.Helper()
	name := &descriptorpb.FieldOptions{}
	proto.SetExtension(name, validate.E_Field, validate.FieldRules_builder{
		Required: proto.Bool(true),
		String:   validate.StringRules_builder{MaxLen: proto.Uint64(8)}.Build(),
	}.Build())
	shares := &descriptorpb.FieldOptions{}
	proto.SetExtension(shares, validate.E_Field, validate.FieldRules_builder{Repeated: validate.RepeatedRules_builder{
		Items: validate.FieldRules_builder{Int32: validate.Int32Rules_builder{Gte: proto.Int32(1), Lte: proto.Int32(100)}.Build()}.Build(),
	}.Build()}.Build())
	message := &descriptorpb.MessageOptions{}
	proto.SetExtension(message, validate.E_Message, validate.MessageRules_builder{Cel: []*validate.Rule{validate.Rule_builder{
		Id: proto.String("shares.first"), Message: proto.String("the first share must be the largest"),
		Expression: proto.String("size(this.shares) == 0 || this.shares.all(s, s <= this.shares[0])"),
	}.Build()}}.Build())
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("test/v1/ruled.proto"), Package: proto.String("test.v1"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{
			Name: proto.String("Ruled"), Options: message,
			Field: []*descriptorpb.FieldDescriptorProto{
				{Name: proto.String("name"), Number: proto.Int32(1), Type: descriptorpb.FieldDescriptorProto_TYPE_STRING.Enum(),
					Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(), Options: name},
				{Name: proto.String("shares"), Number: proto.Int32(2), Type: descriptorpb.FieldDescriptorProto_TYPE_INT32.Enum(),
					Label: descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum(), Options: shares},
			},
		}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return file.Messages().ByName("Ruled")
}

func TestARequestThatBreaksTheRulesOfItsSchemaIsRefusedInWords(t *testing.T) {
	t.Parallel()
	schema := ruled(t)
	var called atomic.Int32
	url, _ := serve(t, rpc.Options{}, connect.Method{Spec: say(), Handler: func(_ context.Context, _ connect.Spec, stream connect.ServerStream) error {
		if err := stream.Receive(dynamicpb.NewMessage(schema)); err != nil {
			return err
		}
		called.Add(1)
		return stream.Send(wrapperspb.String("good"))
	}})
	request := func(name string, shares ...int32) proto.Message {
		m := dynamicpb.NewMessage(schema)
		m.Set(schema.Fields().ByName("name"), protoreflect.ValueOfString(name))
		list := m.Mutable(schema.Fields().ByName("shares")).List()
		for _, s := range shares {
			list.Append(protoreflect.ValueOfInt32(s))
		}
		return m
	}
	type violation struct{ field, reason string }
	for _, c := range []struct {
		name  string
		req   proto.Message
		words []string
		want  []violation
	}{
		{"good", request("berlin", 50, 10), nil, nil},
		{"no name", request("", 1), []string{"the request is not valid: name: value is required"}, []violation{{"name", "REQUIRED"}}},
		{"a long name", request("berlin-east"), []string{"name: must be at most 8 characters"}, []violation{{"name", "STRING_MAX_LEN"}}},
		{"two shares", request("berlin", 100, 101, 5, 0), []string{
			"shares[1]: must be greater than or equal to 1 and less than or equal to 100",
			"; shares[3]: must be",
			"the first share must be the largest",
		}, []violation{{"", "SHARES_FIRST"}, {"shares[1]", "INT32_GTE_LTE"}, {"shares[3]", "INT32_GTE_LTE"}}},
	} {
		for _, d := range dialects()[:2] {
			ctx, cancel := context.WithCancel(t.Context())
			err := d.client(t, url, "Bearer "+viewer).CallUnary(ctx, say(), c.req, &wrapperspb.StringValue{})
			cancel()
			if c.want == nil {
				if err != nil {
					t.Errorf("%s: %v", c.name, err)
				}
				continue
			}
			for _, words := range c.words {
				refused(t, c.name, err, connect.CodeInvalidArgument, "LS-API-009", words)
			}
			bad, ok := detail[*errdetails.BadRequest](t, err)
			if !ok || len(bad.GetFieldViolations()) != len(c.want) {
				t.Errorf("%s: the details are %v", c.name, bad)
				continue
			}
			for i, v := range bad.GetFieldViolations() {
				if v.GetField() != c.want[i].field || v.GetReason() != c.want[i].reason || v.GetDescription() == "" {
					t.Errorf("%s: violation %d is %v, want %v", c.name, i, v, c.want[i])
				}
			}
		}
	}
	if n := called.Load(); n != 2 {
		t.Errorf("the handler was called %d times, want 2", n)
	}
	// A caller is told enough to begin with, however much is wrong.
	many := make([]int32, 1000)
	err := dialects()[0].client(t, url, "Bearer "+viewer).CallUnary(t.Context(), say(), request("berlin", many...), &wrapperspb.StringValue{})
	refused(t, "a thousand", err, connect.CodeInvalidArgument, "LS-API-009", "; and 990 more")
	if bad, _ := detail[*errdetails.BadRequest](t, err); len(bad.GetFieldViolations()) != 10 {
		t.Errorf("%d violations are told", len(bad.GetFieldViolations()))
	}
}

func TestACallThatIsNotAdmittedGoesNoFurther(t *testing.T) {
	t.Parallel()
	var starting atomic.Bool
	starting.Store(true)
	called := make(chan string, 10)
	url, _ := serve(t, rpc.Options{Admit: func() error {
		if starting.Load() {
			return errs.New(errs.Unavailable, "LS-TST-002", "not yet")
		}
		return nil
	}}, unary(say(), func(_ context.Context, text string) (string, error) { called <- text; return text, nil }))
	_, err := call(t, url, "Bearer "+viewer, "hello")
	refused(t, "at the start", err, connect.CodeUnavailable, "LS-TST-002", "LS-TST-002: not yet")
	if len(called) != 0 {
		t.Error("the handler was called")
	}
	starting.Store(false)
	if _, err := call(t, url, "Bearer "+viewer, "hello"); err != nil {
		t.Errorf("later: %v", err)
	}
}

func TestWhatIsNotThereIsToldAsSuch(t *testing.T) {
	t.Parallel()
	url, _ := serve(t, rpc.Options{}, unary(say(), echo))
	for _, procedure := range []string{"/test.v1.EchoService/Nothing", "/test.v1.NoService/Say"} {
		for _, d := range dialects() {
			_, err := ask(t, d.client(t, url, "Bearer "+viewer), connect.Spec{Procedure: procedure}, "")
			if connect.CodeOf(err) != connect.CodeUnimplemented {
				t.Errorf("%s: %s: %v", d.name, procedure, err)
			}
		}
	}
}

func TestAnEndlessHeaderIsRefused(t *testing.T) {
	t.Parallel()
	url, _ := serve(t, rpc.Options{}, unary(say(), echo))
	for _, http2 := range []bool{false, true} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+say().Procedure, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Cookie", strings.Repeat("x", 128<<10))
		res, err := carrier(t, http2).RoundTrip(req)
		if err != nil && http2 {
			continue // the connection ends, because its compression cannot go on
		}
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("%s", res.Status)
		}
	}
	if _, err := call(t, url, "Bearer "+viewer, ""); err != nil {
		t.Errorf("after that: %v", err)
	}
}
