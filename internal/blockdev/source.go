package blockdev

import "xen-backup/internal/exit"

// Source is a device or file that is read as one image: nobody may write to it while it is
// read, unless it was opened so that somebody may.
type Source struct {
	*File
	live    bool   // somebody may write to it
	witness string // from before the first read; "" if it needs none
}

// OpenSource opens a source, and refuses one that others may write to unless allowLive
// is set.
func OpenSource(path string, allowLive bool) (*Source, error) {
	file, err := Open(path)
	if err != nil {
		return nil, err
	}
	s := &Source{File: file, live: allowLive}
	if !s.live {
		s.witness, err = file.witnessOfSource()
	}
	if err == nil {
		err = s.Check()
	} else if gone := file.CheckSnapshot(); gone != nil {
		err = gone
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return s, nil
}

// Check demands that what was read so far is one image. It must be asked after the last
// read, and before anything is said to be complete. A snapshot that is lost or was given
// up is the cause of whatever else is found.
func (s *Source) Check() error {
	err := s.untouched()
	if gone := s.CheckSnapshot(); gone != nil {
		return gone
	}
	return err
}

func (s *Source) untouched() error {
	if s.live {
		return nil
	}
	if err := s.checkFrozen(); err != nil {
		return err
	}
	if s.witness != "" && !Untouched(s.witness, s.Witness(-1)) {
		return exit.Fail(exit.Busy, "%s was written to while it was read, and what was read is no whole image; "+
			"read a snapshot of it (xb-snap create), or say --allow-live", s.Path())
	}
	return nil
}
