package cli

import (
	"os"
	"sync"
	"time"

	"xen-backup/internal/exit"
)

// KeepIn writes every second what a terminal would show into a file, for who shows the progress of several runs: one
// line, and always a whole one. It returns what ends that, after the last figures; "" is no file.
func (p *Progress) KeepIn(file string) (stop func(), err error) {
	if file == "" {
		return func() {}, nil
	}
	if info, err := os.Lstat(file); err == nil && !info.Mode().IsRegular() {
		return nil, exit.Fail(exit.CantCreate, "%s is no regular file, and not to be replaced by one", file)
	}
	if err := p.keep(file); err != nil {
		return nil, exit.Fail(exit.CantCreate, "cannot write the progress: %w", err)
	}
	ended := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				p.keep(file) // that there is no room now and then is no reason to end the run
			case <-ended:
				p.keep(file)
				return
			}
		}
	})
	return func() { close(ended); writer.Wait() }, nil
}

func (p *Progress) keep(file string) error {
	err := os.WriteFile(file+".part", []byte(p.now()+"\n"), 0o644)
	if err == nil {
		err = os.Rename(file+".part", file)
	}
	if err != nil {
		os.Remove(file + ".part")
	}
	return err
}
