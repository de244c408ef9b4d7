module github.com/lockstep-fleet/lockstep/proto

go 1.26.8

require (
	connectrpc.com/connect/v2 v2.0.2
	google.golang.org/protobuf v1.36.12
)
