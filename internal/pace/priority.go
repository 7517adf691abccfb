package pace

import (
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	lowestNice = 19
	// lowestIO is best-effort 7, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 7) of linux/ioprio.h. The idle class would be lower,
	// and is worse for the guest: its write to a chunk of the origin waits for our reads of that chunk of the snapshot
	// (dm-snapshot), and those would wait until no guest has anything to do, for seconds.
	lowestIO         = 2<<13 | 7
	ioprioWhoProcess = 1 // IOPRIO_WHO_PROCESS: of one thread
)

// LowerPriority has everybody else's work go before that of this process and of those that it starts.
func LowerPriority() error {
	// A thread has the priorities of the one that starts it. One that was started meanwhile by a thread whose turn had
	// not come is found in the next round.
	for done := map[int]bool{}; ; {
		threads, err := threads()
		if err != nil {
			return err
		}
		before := len(done)
		for _, t := range threads {
			if done[t] {
				continue
			}
			if err := lower(t); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
			done[t] = true
		}
		if len(done) == before {
			return nil
		}
	}
}

func threads() ([]int, error) {
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return nil, err
	}
	var ids []int
	for _, e := range entries {
		if id, err := strconv.Atoi(e.Name()); err == nil {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func lower(thread int) error {
	if err := unix.Setpriority(unix.PRIO_PROCESS, thread, lowestNice); err != nil {
		return os.NewSyscallError("setpriority", err)
	}
	_, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, ioprioWhoProcess, uintptr(thread), lowestIO)
	if errno != 0 {
		return os.NewSyscallError("ioprio_set", errno)
	}
	return nil
}
