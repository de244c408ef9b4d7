package access_test

import (
	"testing"

	"github.com/lockstep-fleet/lockstep/proto/access"
	accessv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/access/v1"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1/fleetv1connect"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1/rolloutv1connect"
)

func TestRoleOf(t *testing.T) {
	t.Parallel()
	for procedure, want := range map[string]accessv1.Role{
		fleetv1connect.FleetServiceListClustersProcedure:      accessv1.Role_ROLE_VIEWER,
		fleetv1connect.FleetServiceWatchClustersProcedure:     accessv1.Role_ROLE_VIEWER,
		rolloutv1connect.RolloutServiceStartRolloutProcedure:  accessv1.Role_ROLE_OPERATOR,
		"/lockstep.fleet.v1.FleetService/ForgetClusters":      accessv1.Role_ROLE_UNSPECIFIED,
		"/lockstep.fleet.v1.FleetService":                     accessv1.Role_ROLE_UNSPECIFIED,
		"lockstep.fleet.v1.FleetService/ListClusters":         accessv1.Role_ROLE_UNSPECIFIED,
		"/lockstep.fleet.v1.FleetService/ListClusters/":       accessv1.Role_ROLE_UNSPECIFIED,
		"/lockstep.fleet.v1.FleetService.ListClusters":        accessv1.Role_ROLE_UNSPECIFIED,
		"/lockstep.fleet/v1.FleetService.ListClusters":        accessv1.Role_ROLE_UNSPECIFIED,
		"/lockstep.fleet.v1/FleetService":                     accessv1.Role_ROLE_UNSPECIFIED,
		"/lockstep.fleet.v1.Cluster/id":                       accessv1.Role_ROLE_UNSPECIFIED,
		"/grpc.reflection.v1.ServerReflection/NotDeclaredYet": accessv1.Role_ROLE_UNSPECIFIED,
		"":  accessv1.Role_ROLE_UNSPECIFIED,
		"/": accessv1.Role_ROLE_UNSPECIFIED,
	} {
		if got, declared := access.RoleOf(procedure); got != want || declared != (want != accessv1.Role_ROLE_UNSPECIFIED) {
			t.Errorf("%q asks for %s (declared: %t), want %s", procedure, got, declared, want)
		}
	}
}
