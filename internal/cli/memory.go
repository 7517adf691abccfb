package cli

import (
	"runtime"
	"runtime/debug"
)

// limitMemory keeps every command below 64 MiB whatever the machine and the options:
// a Dom0's memory is its guests'. Each core has buffers of its own, so only six are
// used, and garbage is collected before it adds up to more.
func limitMemory() {
	runtime.GOMAXPROCS(min(runtime.GOMAXPROCS(0), 6))
	debug.SetMemoryLimit(55 << 20)
}
