package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/testkit"
)

// TestMain is also the command that the tests send signals to.
func TestMain(m *testing.M) {
	if dir := os.Getenv("XB_TEST_DIR"); dir != "" {
		command := pendingCommand
		if os.Getenv("XB_TEST_LOCKED") != "" {
			command = lockedCommand
		}
		Main("xb-test", "", func(env *Env, args []string) error { return command(env, dir) })
	}
	os.Exit(m.Run())
}

// pendingCommand has one file committed, one discarded, and two pending when it
// waits for a signal.
func pendingCommand(env *Env, dir string) error {
	p := env.StartProgress("auto")
	p.Done.Store(1 << 20)
	var files []*durable.PendingFile
	for _, name := range []string{"committed", "discarded", "pending", "replaced"} {
		f, err := durable.CreatePending(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		files = append(files, f)
	}
	if err := files[0].Commit(); err != nil {
		return err
	}
	files[1].Discard()
	if err := env.Print("ready\n"); err != nil {
		return err
	}
	_, err := io.Copy(env.Stdout, env.Stdin)
	return err
}

// lockedCommand makes files one after another under a lock that undoing needs, too.
func lockedCommand(env *Env, dir string) error {
	var mu sync.Mutex
	defer durable.OnSignal(func() {
		mu.Lock()
		os.Remove(filepath.Join(dir, "file"))
	})()
	if err := env.Print("ready\n"); err != nil {
		return err
	}
	for {
		mu.Lock()
		p, err := durable.CreatePending(filepath.Join(dir, "file"))
		if err == nil {
			err = p.Commit()
		}
		mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// lockedBuffer can be read while a command writes to it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// startPending starts the command and waits until it has made its files.
func startPending(t *testing.T, before ...string) (
	c *exec.Cmd, dir string, stdin io.Closer, stdout io.ReadCloser, stderr *lockedBuffer) {
	t.Helper()
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "replaced"), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	args := append(before, os.Args[0])
	c = exec.Command(args[0], args[1:]...)
	c.Env = append(os.Environ(), "XB_TEST_DIR="+dir)
	stderr = new(lockedBuffer)
	c.Stderr = stderr
	stdin, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if stdout, err = c.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "ready\n" {
		c.Process.Kill()
		t.Fatalf("%q, %v", line, err)
	}
	return c, dir, stdin, stdout, stderr
}

// TestSignals: nothing is left behind, and the parent sees what ended the process.
func TestSignals(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT} {
		c, dir, _, _, stderr := startPending(t)
		if n := len(strings.Fields(testkit.Names(t, dir))); n != 4 {
			t.Errorf("before: %s", testkit.Names(t, dir))
		}
		if err := c.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		err := c.Wait()
		want := s
		if s == syscall.SIGQUIT {
			want = syscall.SIGTERM
		}
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != want {
			t.Errorf("%v: ended with %v", s, err)
		}
		if got := testkit.Names(t, dir); got != "committed replaced" {
			t.Errorf("%v: leaves %s", s, got)
		}
		if old, err := os.ReadFile(filepath.Join(dir, "replaced")); string(old) != "old" {
			t.Errorf("%v: the old file is %q, %v", s, old, err)
		}
		if stderr.String() != "" {
			t.Errorf("%v: %s", s, stderr)
		}
	}
}

// TestSignalLocked: undoing may wait for a lock under which files are made.
func TestSignalLocked(t *testing.T) {
	t.Setenv("XB_TEST_LOCKED", "1")
	for range 20 {
		c, dir, _, _, stderr := startPending(t)
		time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond)
		if err := c.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		hangs := time.AfterFunc(testkit.Long, func() { c.Process.Kill() })
		err := c.Wait()
		hangs.Stop()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM || stderr.String() != "" {
			t.Fatalf("ended with %v: %s", err, stderr)
		}
		if got := testkit.Names(t, dir); got != "replaced" {
			t.Fatalf("leaves %s", got)
		}
	}
}

// TestIgnoredSignal: nohup is obeyed.
func TestIgnoredSignal(t *testing.T) {
	c, _, stdin, _, stderr := startPending(t, "sh", "-c", `trap "" HUP; exec "$0"`)
	if err := c.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	stdin.Close()
	if err := c.Wait(); err != nil {
		t.Errorf("%v: %s", err, stderr)
	}
}

// TestClosedPipe: a reader that goes away is an error, not a silent death.
func TestClosedPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), "XB_TEST_DIR="+t.TempDir())
	c.Stdout = w
	var stderr bytes.Buffer
	c.Stderr = &stderr
	c.Run()
	if got := stderr.String(); c.ProcessState.ExitCode() != exit.IOError || !strings.Contains(got, "broken pipe") {
		t.Errorf("%v: stderr is %q", c.ProcessState, got)
	}
}

func TestFullStdout(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	env := &Env{Name: "xb-test", Stdout: full}
	for _, err := range []error{env.Print("answer\n"), func() error {
		out, err := env.BinaryOut()
		if err == nil {
			_, err = out.Write([]byte("x"))
		}
		return err
	}()} {
		if err == nil || err.Error() != "standard output: no space left on device" || exit.StatusOf(err) != exit.IOError {
			t.Errorf("%v", err)
		}
	}
	var stderr bytes.Buffer
	env.Stderr = &stderr
	if status := env.Run("usage\n", nil, func(*Env, []string) error { return errHelp }); status != exit.IOError {
		t.Errorf("help to /dev/full: status %d", status)
	}
}

// TestProgressSignal: SIGUSR1 shows one line and does not end anything.
func TestProgressSignal(t *testing.T) {
	c, _, stdin, _, stderr := startPending(t)
	if err := c.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "a line on standard error", func() bool { return stderr.String() != "" })
	stdin.Close()
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
	if !regexp.MustCompile(`^xb-test: 1\.0 MiB, [0-9.]+ [KMG]iB/s\n$`).MatchString(stderr.String()) {
		t.Errorf("stderr is %q", stderr)
	}
}

func TestProgress(t *testing.T) {
	var stderr bytes.Buffer
	env := &Env{Name: "xb-test", Stderr: &stderr}
	p := env.StartProgress("always")
	p.Total.Store(100)
	p.Done.Store(100)
	p.Stop()
	if !strings.HasPrefix(stderr.String(), "xb-test: 100 B of 100 B (100 %), ") ||
		strings.Count(stderr.String(), "\n") != 1 {
		t.Errorf("final line %q", stderr.String())
	}
	for _, mode := range []string{"auto", "never"} {
		stderr.Reset()
		env.StartProgress(mode).Stop()
		if stderr.String() != "" {
			t.Errorf("%s: %q", mode, stderr.String())
		}
	}

	for _, test := range []struct {
		total, read, changed, sent int64
		elapsed                    time.Duration
		want                       string
	}{
		{0, 0, 0, 0, 0, "0 B, 0 B/s"},
		{0, 3 << 20, 0, 0, time.Second, "3.0 MiB, 3.0 MiB/s"},
		{4 << 30, 1 << 30, 0, 0, 10 * time.Second, "1.0 GiB of 4.0 GiB (25 %), 102.4 MiB/s, 30s left"},
		{4 << 30, 4 << 30, 1 << 20, 20 << 10, 10 * time.Second,
			"4.0 GiB of 4.0 GiB (100 %), 409.6 MiB/s, 1.0 MiB changed, 20.0 KiB sent"},
		{100, 200, 0, 0, time.Second, "200 B of 100 B (100 %), 200 B/s"},
		{1 << 62, 1, 0, 0, time.Hour, "1 B of 4194304.0 TiB (0 %), 0 B/s"}, // longer than a Duration
	} {
		p := &Progress{}
		p.Total.Store(test.total)
		p.Done.Store(test.read)
		p.Changed.Store(test.changed)
		p.Sent.Store(test.sent)
		if got := p.line(test.elapsed); got != test.want {
			t.Errorf("%q, want %q", got, test.want)
		}
	}
}

func TestDistinct(t *testing.T) {
	dir := t.TempDir()
	a, b, link := dir+"/a", dir+"/b", dir+"/link"
	if err := errors.Join(os.WriteFile(a, nil, 0o600), os.WriteFile(b, nil, 0o600), os.Symlink("a", link)); err != nil {
		t.Fatal(err)
	}
	for _, names := range [][]string{{a, b, ""}, {"", "", a}, {dir + "/new", dir + "/other"}} {
		if err := Distinct(names...); err != nil {
			t.Errorf("%q: %v", names, err)
		}
	}
	for _, names := range [][]string{{a, a}, {a, b, a}, {a, link}, {"new", "./new"}} {
		if err := Distinct(names...); exit.StatusOf(err) != exit.Usage {
			t.Errorf("%q: %v", names, err)
		}
	}
}

func TestSummary(t *testing.T) {
	dir := t.TempDir()
	s := Summary{Command: "xb-test", Version: "1", ImageSize: 1 << 40, BlockSize: 4096, Hash: "xxh64", Digest: "00",
		BytesRead: 2, BytesChanged: 3, BytesSent: 4, BlocksChanged: 5, Seconds: 1.5}
	const want = `{"command":"xb-test","version":"1","image_size":1099511627776,"block_size":4096,"hash":"xxh64","digest":"00",` +
		`"bytes_read":2,"bytes_changed":3,"bytes_sent":4,"blocks_changed":5,"seconds":1.5}` + "\n"
	path := filepath.Join(dir, "summary")
	for range 2 {
		if err := s.Write(path); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); string(got) != want || !json.Valid(got) {
			t.Errorf("%s, %v", got, err)
		}
	}
	if err := s.Write(""); err != nil || testkit.Names(t, dir) != "summary" {
		t.Errorf("%v, %s", err, testkit.Names(t, dir))
	}
	if err := s.Write("/dev/null"); err != nil {
		t.Error(err)
	}
	// As /dev/stderr, where standard error is a file.
	if err := errors.Join(os.WriteFile(dir+"/log", []byte("before\n"), 0o600), os.Symlink("log", dir+"/link"),
		s.Write(dir+"/link")); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(dir + "/log"); string(got) != "before\n"+want {
		t.Errorf("through a link: %q, %v", got, err)
	}
	if info, err := os.Lstat(dir + "/link"); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link was replaced: %v", err)
	}
	if info, err := os.Stat("/dev/null"); err != nil || info.Mode().IsRegular() {
		t.Fatal("/dev/null was replaced")
	}
	for _, path := range []string{"/dev/full", dir, filepath.Join(dir, "none", "x"), filepath.Join(path, "x")} {
		if err := s.Write(path); exit.StatusOf(err) != exit.CantCreate {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestWords: a program that logs what another one says must not guess how much it matters.
func TestWords(t *testing.T) {
	say := func(env *Env) error {
		env.Error("a\nb")
		env.Warn("w")
		env.Note("n")
		env.Info("i")
		return exit.Fail(exit.Usage, "wrong")
	}
	for _, c := range []struct{ args, want string }{
		{"", "x: a\n  b\nx: w\nx: n\nx: wrong\ntry 'x --help'\n"},
		{"-q", "x: a\n  b\nx: wrong\ntry 'x --help'\n"},
		{"-v", "x: a\n  b\nx: w\nx: n\nx: i\nx: wrong\ntry 'x --help'\n"},
		{"--words", "err x: a\nerr   b\nwarning x: w\ninfo x: n\ninfo x: i\nerr x: wrong\n"},
	} {
		var stderr bytes.Buffer
		env := &Env{Name: "x", Stderr: &stderr}
		status := env.Run("", strings.Fields(c.args), func(env *Env, args []string) error {
			f := env.Flags()
			env.LevelFlag(f)
			if _, err := f.Parse(args); err != nil {
				return err
			}
			return say(env)
		})
		if stderr.String() != c.want || status != exit.Usage {
			t.Errorf("%s: %q, want %q", c.args, stderr.String(), c.want)
		}
	}
}
