package cli

import (
	"xen-backup/internal/exit"
	"xen-backup/internal/pace"
	"xen-backup/internal/text"
)

// Pace is how fast a run may use the disks of guests.
type Pace struct {
	background bool
	readLimit  int64 // bytes a second; 0: no limit
}

// PaceFlags registers --background and --read-limit.
func (f *Flags) PaceFlags(p *Pace) {
	f.Bool(&p.background, "background")
	f.Func("read-limit", func(s string) (err error) {
		if p.readLimit, err = text.ParseSize(s); err == nil && p.readLimit == 0 {
			err = exit.Fail(exit.Usage, "a rate of 0 never ends")
		}
		return err
	})
}

// Limited reports whether there is a limit to what is read of a disk, and so has to be one.
func (p Pace) Limited() bool { return p.readLimit > 0 }

// StartPace lowers the priority of the process if it is to run in the background. It returns nil if nothing was said
// of its pace.
func (e *Env) StartPace(p Pace) *pace.Pace {
	if p == (Pace{}) {
		return nil
	}
	if p.background {
		if err := pace.LowerPriority(); err != nil {
			e.Warn("guests may have to wait: %v", err)
		}
	}
	return pace.New(p.background, p.readLimit)
}
