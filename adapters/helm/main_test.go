package helm_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/lockstep-fleet/lockstep/adapters/helm"
)

// readAlone makes the test program read a location and print the error: the proxy
// of the environment is looked up once in a process.
const readAlone = "LOCKSTEP_TEST_READ"

func TestMain(m *testing.M) {
	// Nobody's own logins are used.
	for _, name := range []string{"HOME", "HELM_CONFIG_HOME", "DOCKER_CONFIG"} {
		if err := os.Setenv(name, "/nonexistent"); err != nil {
			panic(err)
		}
	}
	if location := os.Getenv(readAlone); location != "" {
		_, _, err := helm.Read(context.Background(), helm.Options{Location: location})
		fmt.Println(err)
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}
