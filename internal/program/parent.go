package program

import (
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// EndWithParent has SIGTERM end this process, too, when whoever has started it ends, were it killed.
func EndWithParent() error {
	parent, done := os.Getppid(), make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the wish is the thread's, and ends with it
		done <- unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGTERM), 0, 0, 0)
		select {}
	}()
	if err := <-done; err != nil {
		return fmt.Errorf("prctl: %w", err)
	}
	if os.Getppid() != parent { // it has ended before that
		syscall.Kill(os.Getpid(), syscall.SIGTERM)
	}
	return nil
}
