module github.com/lockstep-fleet/lockstep/integration

go 1.26.8
