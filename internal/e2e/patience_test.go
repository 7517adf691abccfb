package e2e

import "xen-backup/internal/testkit"

var (
	untilHang  = testkit.UntilHang
	eventually = testkit.Eventually
	stand      = testkit.Stop
)
