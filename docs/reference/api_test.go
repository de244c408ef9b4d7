package reference_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"

	accessv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/access/v1"
)

func TestTheAPIReferenceListsEveryProcedure(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("api.md")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile("../../proto/contract.binpb")
	if err != nil {
		t.Fatal(err)
	}
	var contract descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(data, &contract); err != nil {
		t.Fatal(err)
	}
	var rows, want []string
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "| `/lockstep.") {
			rows = append(rows, line)
		}
	}
	for _, file := range contract.GetFile() {
		for _, service := range file.GetService() {
			for _, m := range service.GetMethod() {
				role, _ := proto.GetExtension(m.GetOptions(), accessv1.E_Role).(accessv1.Role)
				get := "no"
				switch {
				case m.GetServerStreaming():
					get = "no, a stream"
				case m.GetOptions().GetIdempotencyLevel() == descriptorpb.MethodOptions_NO_SIDE_EFFECTS:
					get = "yes"
				}
				want = append(want, fmt.Sprintf("| `/%s.%s/%s` | %s | %s | ", file.GetPackage(), service.GetName(), m.GetName(),
					strings.ToLower(strings.TrimPrefix(role.String(), "ROLE_")), get))
			}
		}
	}
	for i := range max(len(rows), len(want)) {
		switch {
		case i >= len(want):
			t.Errorf("api.md has one row too many:\n%s", rows[i])
		case i >= len(rows) || !strings.HasPrefix(rows[i], want[i]):
			t.Fatalf("row %d of the table in api.md must begin with\n%s\nand say what the call does", i+1, want[i])
		}
	}
	if len(want) == 0 {
		t.Error("the contract holds no procedure")
	}
}
