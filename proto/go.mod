module github.com/lockstep-fleet/lockstep/proto

go 1.26.8
