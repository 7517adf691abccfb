package main

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"
)

// watched runs watch on machines that are on for ever and write a line to a log
// each time that write is ready.
func watched(t *testing.T, idle time.Duration, write <-chan time.Time, writes int) (time.Duration, error) {
	t.Helper()
	work := t.TempDir()
	if err := os.Mkdir(work+"/out", 0o700); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(work + "/out/check.log")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer log.Close()
		for range writes {
			<-write
			log.WriteString("a word\n")
		}
	}()
	a, b := &machine{name: "dom0a", work: work}, &machine{name: "dom0b", work: work}
	start := time.Now()
	_, err = watch(context.Background(), a, b, idle)
	return time.Since(start), err
}

// TestIdle demands that machines are stopped when nothing happens, and not
// because they take long.
func TestIdle(t *testing.T) {
	const idle = time.Second
	tick := time.NewTicker(idle / 10)
	defer tick.Stop()
	took, err := watched(t, idle, tick.C, 30)
	if err == nil || !strings.Contains(err.Error(), "nothing was written") {
		t.Errorf("got %v, want the word that nothing was written", err)
	}
	if took < 3*idle {
		t.Errorf("stopped after %v, while logs were still written", took)
	}
}

// TestDeath demands the reason that a machine's console gave.
func TestDeath(t *testing.T) {
	m := &machine{console: &strings.Builder{}}
	e := m.readConsole(strings.NewReader("Linux\r\nSECCOMP userspace requested but not functional!\n\n"))
	if e.status != statusNone || e.last != "SECCOMP userspace requested but not functional!" {
		t.Errorf("got %+v", e)
	}
	if e := m.readConsole(strings.NewReader("lab! 1\nPower down\n")); e.status != 1 {
		t.Errorf("got %+v, want status 1", e)
	}
}
