package standby

import "slices"

// step is a part of a run: when it has returned, its promise holds, whatever ends the run
// then. See the tables in the package comment.
type step[R any] struct {
	name string
	do   func(R) error
}

// walk takes one step after another, up to the first error.
func walk[R any](run R, steps []step[R]) error {
	for _, s := range steps {
		if err := s.do(run); err != nil {
			return err
		}
	}
	return nil
}

// An apply takes the steps of arriving, beginning and finishing.
var (
	// Nothing of the target is touched.
	arriving = []step[*apply]{
		{"received", (*apply).receive}, // the delta is in a spool, and as a stream it is right
		{"proved", (*apply).prove},     // the target is its basis, and this disk's standby
	}
	// The target still is the old image. An error takes all of it back.
	preparing = []step[*apply]{
		{"created", (*apply).createMissing}, // the target exists
		{"guarded", (*apply).guardWrites},   // nobody has it, and who writes to it now is seen
		{"reserved", (*apply).reserve},      // there is room for the new image
	}
	beginning = slices.Concat([]step[*apply]{{"pointed", (*apply).point}}, preparing, []step[*apply]{
		{"kept", (*apply).keepSpool},  // the spool is durable
		{"recorded", (*apply).record}, // so is it that the target may be a mix now
	})
	// From here on the way is forward only.
	finishing = []step[*apply]{
		{"written", (*apply).write},
		{"synced", (*apply).sync},
		{"reread", (*apply).reread}, // what was written is on the disk
		{"clean", (*apply).setClean},
		{"removed", (*apply).removeSpool},
	}
)

// A recovery takes these, and then those of finishing.
var resuming = []step[*apply]{
	{"received", (*apply).reopenSpool}, // the spool is the one recorded, and right
	{"created", (*apply).createMissing},
	{"proved", (*apply).proveRest}, // what the spool leaves alone is as in its basis
	{"guarded", (*apply).guardWrites},
}

// A delta that is held for its set takes the steps of arriving, and these.
var holding = []step[*apply]{
	{"kept", (*apply).keepSpool},
	{"held", (*apply).note}, // so is a note of it
}

// The commit of a set takes these, with those of proving and preparing, of recorded and of
// finishing for each of its disks.
var committing = []step[*commit]{
	{"locked", (*commit).lock},   // nobody else changes any of its disks
	{"checked", (*commit).check}, // each is the basis of a delta that is held for it, and that is right
	{"pointed", (*commit).point}, // what they are can be had again
	{"prepared", (*commit).prepare},
	{"changed", (*commit).change}, // the DomU is the new one: from here on the way is forward only
	{"recorded", (*commit).record},
	{"finished", (*commit).finish},
	{"forgotten", (*commit).forget},
}

// The recovery of a set takes these. What it cannot finish is no reason to leave the rest behind.
var recovering = []step[*commit]{
	{"locked", (*commit).lock},
	{"reloaded", (*commit).reload},
	{"judged", (*commit).judge}, // all disks go forward, or all stay the old images
	{"ready", (*commit).reenterAll},
	{"recorded", (*commit).recordAgain},
	{"finished", (*commit).finish},
	{"forgotten", (*commit).forget},
}

var (
	// Before the commit.
	proving = []step[*apply]{
		{"received", (*apply).reopenHeld},
		{"proved", (*apply).proveHeld},
	}
	// A recovery of a disk that was not recorded.
	retrying = []step[*apply]{
		{"received", (*apply).reopenAgain},
		{"proved", (*apply).proveHeld},
		{"created", (*apply).createMissing},
		{"guarded", (*apply).guardWrites},
	}
)

// A first copy in place takes these.
var (
	copying = []step[*firstCopy]{
		{"proved", (*firstCopy).prove},    // there is nothing to lose
		{"written", (*firstCopy).receive}, // takes the steps of marking before its first write
		{"synced", (*firstCopy).sync},
		{"reread", (*firstCopy).reread}, // all of the target is the source
		{"clean", (*firstCopy).setClean},
	}
	marking = []step[*firstCopy]{
		{"created", (*firstCopy).createMissing},
		{"guarded", (*firstCopy).guardWrites},
		{"recorded", (*firstCopy).record}, // the target is a mix until the end
		{"sized", (*firstCopy).setSize},
	}
)
