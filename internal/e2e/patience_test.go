package e2e

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A test gives up when nothing happens any more, not because it takes long: on a busy
// machine everything does.
const (
	idle = 90 * time.Second // with no process below this one that uses the CPU, begins or ends
	most = 10 * time.Minute // what goes round and round hangs too
)

// untilHang returns a context that ends when nothing happens any more.
func untilHang() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), most)
	go func() {
		// The first look is late: most of what is waited for ends before it, and a look is at every process.
		for seen, since := "", time.Now(); ; {
			select {
			case <-ctx.Done():
				return
			case <-time.After(2 * time.Second):
			}
			if now := below(os.Getpid()); now != seen {
				seen, since = now, time.Now()
			} else if time.Since(since) > idle {
				cancel()
			}
		}
	}()
	return ctx, cancel
}

// below lists the processes below one, each with the CPU time that it has used.
func below(top int) string {
	parents, lines := make(map[int]int), make(map[int]string)
	names, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range names {
		text, _ := os.ReadFile(name) // of one that has ended meanwhile there is none
		_, rest, _ := bytes.Cut(text, []byte(") "))
		fields := strings.Fields(string(rest)) // from the third one on, see proc_pid_stat(5)
		if len(fields) < 13 {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		parents[pid], _ = strconv.Atoi(fields[1])
		lines[pid] = strings.Join(fields[11:13], " ") + "\n"
	}
	var all strings.Builder
	for _, name := range names {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		for p := parents[pid]; p != 0; p = parents[p] {
			if p == top {
				all.WriteString(strconv.Itoa(pid) + " " + lines[pid])
				break
			}
		}
	}
	return all.String()
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	ctx, cancel := untilHang()
	defer cancel()
	for !is() {
		select {
		case <-ctx.Done():
			t.Fatalf("never happened: %s", what)
		case <-time.After(time.Millisecond):
		}
	}
}
