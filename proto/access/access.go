// Package access tells which role an RPC asks for, as its contract declares it.
// It does not know who has which role.
package access

import (
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	accessv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/access/v1"
)

// RoleOf returns the least role that may call a procedure, such as
// "/lockstep.fleet.v1.FleetService/ListClusters". It is false when no contract
// that the program links declares one.
func RoleOf(procedure string) (accessv1.Role, bool) {
	path, rooted := strings.CutPrefix(procedure, "/")
	name, method, parted := strings.Cut(path, "/")
	if !rooted || !parted {
		return accessv1.Role_ROLE_UNSPECIFIED, false
	}
	// What is not found is nil, and nil is no service.
	found, _ := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
	service, isService := found.(protoreflect.ServiceDescriptor)
	if !isService {
		return accessv1.Role_ROLE_UNSPECIFIED, false
	}
	rpc := service.Methods().ByName(protoreflect.Name(method))
	if rpc == nil {
		return accessv1.Role_ROLE_UNSPECIFIED, false
	}
	role, _ := proto.GetExtension(rpc.Options(), accessv1.E_Role).(accessv1.Role)
	return role, role != accessv1.Role_ROLE_UNSPECIFIED
}
