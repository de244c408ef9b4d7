// Package proto_test holds the laws that every contract keeps. That everything is
// documented is no law here: `make gen` lints it.
package proto_test

import (
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/lockstep-fleet/lockstep/proto/access"
	_ "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/access/v1"
	_ "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/catalog/v1"
	_ "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/command/v1"
	_ "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/drift/v1"
	_ "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
	_ "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
	_ "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1"
	_ "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
)

// procedures returns every RPC of Lockstep, in the order of files and of lines
// in them.
func procedures(t *testing.T) []protoreflect.MethodDescriptor {
	t.Helper()
	var out []protoreflect.MethodDescriptor
	for _, path := range contracts(t) {
		file, err := protoregistry.GlobalFiles.FindFileByPath(path)
		if err != nil {
			t.Fatalf("no test looks at %s; import its generated package here", path)
		}
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				out = append(out, service.Methods().Get(j))
			}
		}
	}
	if len(out) == 0 {
		t.Fatal("there is no RPC to look at")
	}
	return out
}

// contracts lists the files that contracts are written in.
func contracts(t *testing.T) []string {
	t.Helper()
	var out []string
	if err := fs.WalkDir(os.DirFS("."), "lockstep", func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".proto") {
			out = append(out, path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func options(t *testing.T, m protoreflect.MethodDescriptor) *descriptorpb.MethodOptions {
	t.Helper()
	o, ok := m.Options().(*descriptorpb.MethodOptions)
	if !ok {
		t.Fatalf("%s has options of type %T", m.FullName(), m.Options())
	}
	return o
}

func safe(t *testing.T, m protoreflect.MethodDescriptor) bool {
	t.Helper()
	return options(t, m).GetIdempotencyLevel() == descriptorpb.MethodOptions_NO_SIDE_EFFECTS
}

// rules returns what a field's rules are, nil when it has none.
func rules(f protoreflect.FieldDescriptor) *validate.FieldRules {
	if f == nil || !proto.HasExtension(f.Options(), validate.E_Field) {
		return nil
	}
	r, _ := proto.GetExtension(f.Options(), validate.E_Field).(*validate.FieldRules)
	return r
}

func path(m protoreflect.MethodDescriptor) string {
	return fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())
}

func TestEveryProcedureDeclaresARole(t *testing.T) {
	t.Parallel()
	for _, m := range procedures(t) {
		if _, declared := access.RoleOf(path(m)); !declared {
			t.Errorf("%s: say who may call it: option (lockstep.access.v1.role) = …", m.FullName())
		}
	}
}

// A caller whose connection broke must be able to ask again: the call says which
// it was, or how something shall be, so that a repeat changes nothing more.
func TestWhatChangesThingsHasARequestID(t *testing.T) {
	t.Parallel()
	for _, m := range procedures(t) {
		if safe(t, m) || m.IsStreamingServer() {
			continue
		}
		field := m.Input().Fields().ByName("request_id")
		if field == nil && options(t, m).GetIdempotencyLevel() == descriptorpb.MethodOptions_IDEMPOTENT {
			continue
		}
		if len(rules(field).GetCel()) == 0 {
			t.Errorf("%s changes things, so %s needs a string request_id with a rule that refuses an empty one in words", m.FullName(), m.Input().Name())
		}
	}
}

func TestListsComeInPages(t *testing.T) {
	t.Parallel()
	for _, m := range procedures(t) {
		if !strings.HasPrefix(string(m.Name()), "List") {
			continue
		}
		for _, want := range []struct {
			in   protoreflect.MessageDescriptor
			name protoreflect.Name
			kind protoreflect.Kind
		}{
			{m.Input(), "page_size", protoreflect.Int32Kind}, {m.Input(), "page_token", protoreflect.StringKind}, {m.Output(), "next_page_token", protoreflect.StringKind},
		} {
			if f := want.in.Fields().ByName(want.name); f == nil || f.Kind() != want.kind {
				t.Errorf("%s: %s needs a field %s of type %s", m.FullName(), want.in.Name(), want.name, want.kind)
			}
		}
	}
}

// What comes from outside is bounded before anyone looks at it.
func TestEveryFieldOfARequestHasARule(t *testing.T) {
	t.Parallel()
	for _, m := range procedures(t) {
		for i := range m.Input().Fields().Len() {
			f := m.Input().Fields().Get(i)
			r := rules(f)
			// A bool is bounded by being one.
			if r == nil && f.Kind() != protoreflect.BoolKind {
				t.Errorf("%s has no rule", f.FullName())
			}
			if f.IsList() && f.Kind() == protoreflect.StringKind && r.GetRepeated().GetItems().GetString() == nil {
				t.Errorf("%s has no rule for its items", f.FullName())
			}
		}
	}
}

// The rules are compiled from source and read by generated code; both must mean
// the same.
func TestTheRulesAreWrittenInTheLanguageTheyAreReadIn(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("contract.binpb")
	if err != nil {
		t.Fatalf("%v; `make gen` writes it", err)
	}
	var image descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(data, &image); err != nil {
		t.Fatal(err)
	}
	want := protodesc.ToFileDescriptorProto(validate.File_buf_validate_validate_proto)
	for _, file := range image.GetFile() {
		if file.GetName() != want.GetName() {
			continue
		}
		// The image says of each file whether it is an import.
		file.ProtoReflect().SetUnknown(nil)
		if !proto.Equal(want, file) {
			t.Errorf("%s that `make gen` compiles is not the one of the Go module; take versions that belong together in Makefile and proto/go.mod", want.GetName())
		}
		return
	}
	t.Errorf("contract.binpb does not hold %s", want.GetName())
}
