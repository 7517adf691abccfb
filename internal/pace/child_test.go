package pace

import (
	"os"
	"os/exec"
	"testing"
)

// testInChild runs a test in a process of its own, whose priorities are its own.
func testInChild(t *testing.T) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "XB_TEST_LOWER=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
