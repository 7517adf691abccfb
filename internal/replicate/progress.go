package replicate

import (
	"os"
	"strings"
	"sync"
	"time"
)

// progress shows the copies that are under way.
type progress struct {
	mu    sync.Mutex
	shown []*shown
	stop  chan struct{}
	ended sync.WaitGroup
}

// shown is a copy that is under way.
type shown struct {
	name  string // for the last line of a terminal
	place string // for the log
	file  string // where xb-delta says how far it is
	told  time.Time
}

// sometimes is how often the log tells of a copy that takes long. Tests do not have that long.
func sometimes() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("XB_PROGRESS_EVERY")); err == nil {
		return d
	}
	return 10 * time.Minute
}

func startProgress(r *run) *progress {
	p := &progress{stop: make(chan struct{})}
	p.ended.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				p.tell(r)
			case <-p.stop:
				return
			}
		}
	})
	return p
}

// end ends it.
func (p *progress) end(user User) {
	close(p.stop)
	p.ended.Wait()
	user.Progress("")
}

// show begins to show a copy; done ends that.
func (p *progress) show(s *shown) (done func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.told = time.Now()
	p.shown = append(p.shown, s)
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.shown = without(p.shown, []*shown{s})
	}
}

func (p *progress) tell(r *run) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []string
	for _, s := range p.shown {
		line := s.line()
		if line == "" {
			continue
		}
		all = append(all, s.name+": "+line)
		if time.Since(s.told) >= sometimes() {
			s.told = time.Now()
			r.say(infoLevel, "#### "+s.place+": "+line)
		}
	}
	if len(all) > 0 {
		r.user.Progress(strings.Join(all, " | "))
	}
}

// line is what xb-delta has said last, "" if it has not yet.
func (s *shown) line() string {
	text, err := os.ReadFile(s.file)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}
