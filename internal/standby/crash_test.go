package standby

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/exit"
	"xen-backup/internal/rdiff"
	"xen-backup/internal/state"
	"xen-backup/internal/stream"
	"xen-backup/internal/testkit"
)

// TestCrash kills runs after each of their steps, and holds what they leave against the
// tables in the package comment. They are not parallel: a child that is about to be started
// has the locks of all others for a moment.
func TestCrash(t *testing.T) {
	for _, table := range readTables(t) {
		if table.name == aCommit || table.name == aSetRecovery {
			continue // TestCrashOfSets
		}
		t.Run(table.name, func(t *testing.T) {
			table.checkNames(t)
			for _, kind := range testkit.Some(t, 2, kinds...) {
				if kind == largerFile && table.name == aFirstCopy {
					continue // it is refused
				}
				t.Run(kind, func(t *testing.T) {
					for _, row := range table.rows {
						t.Run(row.after, func(t *testing.T) { crash(t, table.name, kind, row) })
					}
				})
			}
		})
	}
}

// The tables' headings.
const (
	anApply     = "An apply"
	aHold       = "A hold"
	aRecovery   = "A recovery"
	aFirstCopy  = "A first copy in place"
	halfWritten = "half written"
)

// The kinds of targets. A file becomes larger, or a larger one smaller; of a device, what is
// behind the image stays.
const (
	file        = "file"
	largerFile  = "larger file"
	missingFile = "missing file"
	loopDevice  = "loop device"
)

var kinds = []string{file, loopDevice, largerFile, missingFile}

type table struct {
	name string
	rows []row
}

// row is what a run leaves that is killed after a step.
type row struct {
	after, target, state, spool string
	next                        int // the exit status of the next run
	cure                        string
}

// readTables reads the package comment.
func readTables(t *testing.T) (tables []table) {
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "// # "); ok {
			tables = append(tables, table{name: name})
		}
		columns, ok := strings.CutPrefix(line, "//\t")
		if !ok || strings.HasPrefix(columns, "killed after") {
			continue
		}
		c := slices.DeleteFunc(strings.Split(columns, "  "), func(s string) bool { return s == "" })
		for i := range c {
			c[i] = strings.TrimSpace(c[i])
		}
		if len(c) != 6 || len(tables) == 0 {
			t.Fatalf("no row of a table: %q", columns)
		}
		next, err := strconv.Atoi(c[4])
		if err != nil {
			t.Fatal(err)
		}
		last := &tables[len(tables)-1]
		last.rows = append(last.rows, row{c[0], c[1], c[2], c[3], next, c[5]})
	}
	if len(tables) == 0 {
		t.Fatal("there are no tables")
	}
	return tables
}

// checkNames demands that there is a row for each step, in their order.
func (table table) checkNames(t *testing.T) {
	steps := map[string][]string{
		anApply:      slices.Concat(names(arriving), names(beginning), names(finishing)),
		aHold:        slices.Concat(names(arriving), names(holding)),
		aCommit:      names(committing),
		aSetRecovery: names(recovering),
		aRecovery:    slices.Concat(names(resuming), names(finishing)),
		aFirstCopy:   slices.Insert(names(copying), 1, names(marking)...),
	}[table.name]
	var rows []string
	for _, r := range table.rows {
		if !strings.HasPrefix(r.after, "half ") {
			rows = append(rows, r.after)
		}
	}
	if !slices.Equal(rows, steps) {
		t.Errorf("the table has rows for %q, the steps are %q", rows, steps)
	}
}

func names[R any](steps []step[R]) (names []string) {
	for _, s := range steps {
		names = append(names, s.name)
	}
	return names
}

// crash kills one run, looks at what is left, and takes the cure.
func crash(t *testing.T, run, kind string, want row) {
	s := newScene(t, kind, want.after)
	if run == aFirstCopy {
		s.options.InPlace = true
	} else {
		s.synced()
	}
	if run == aRecovery {
		s.interrupted()
	}
	before := s.record()
	doomedOptions := s.options
	if run == aHold {
		doomedOptions.Set, doomedOptions.Taken = setA, taken
	}
	s.kill(doomed{Run: run, Options: doomedOptions, Delta: s.delta(), After: want.after})

	s.wantTarget(want)
	s.wantState(want.state, before)
	s.wantSpool(want.spool)
	err := s.patch()
	if status := exit.StatusOf(err); status != want.next {
		t.Errorf("the next run ends with %d, want %d: %v", status, want.next, err)
	}
	if want.next == exit.Unfinished {
		if want.cure != "--recover" || !strings.Contains(err.Error(), "xb-patch --recover") {
			t.Errorf("the cure is %s, and the next run says %v", want.cure, err)
		}
		if d, err := Recover(s.user, s.options); d == nil || err != nil {
			t.Errorf("--recover: %v, %v", d, err)
		}
	}
	s.wantNew()
	if d, err := Recover(s.user, s.options); d != nil || err != nil {
		t.Errorf("--recover of what is done: %v, %v", d, err)
	}
}

// scene is a target and the image that it is to become.
type scene struct {
	*testing.T
	options  Options
	user     *quiet
	old, new []byte       // what the target holds before and after
	image    stream.Image // the new one, without what is behind it
}

func newScene(t *testing.T, kind, after string) *scene {
	size := 1<<20 + 1536
	if after == halfWritten { // more than is written at once: of a device 14 frames of 1 MiB
		size = 16 << 20
	}
	s := &scene{T: t, user: new(quiet), new: randomBytes(size, 2)}
	s.options = Options{Target: filepath.Join(t.TempDir(), "target"), StateDir: testkit.MemoryDir(t), Toolstack: "auto"}
	s.image = digestOf(t, s.new)
	switch kind {
	case file:
		s.old = randomBytes(size-9999, 1)
	case largerFile:
		s.old = randomBytes(size+9999, 1)
	case loopDevice:
		s.old = randomBytes(size+8192, 1)
		s.options.Target, _ = testkit.LoopDevice(t, int64(len(s.old)))
		s.new = append(s.new, s.old[size:]...)
	case missingFile:
		s.options.Create = true
		return s
	}
	if err := os.WriteFile(s.options.Target, s.old, 0o600); err != nil {
		t.Fatal(err)
	}
	if f, err := os.Open(s.options.Target); err != nil || f.Sync() != nil || f.Close() != nil {
		t.Fatal("cannot sync the target: ", err)
	}
	return s
}

func randomBytes(size int, seed uint64) []byte {
	var key [32]byte
	key[0] = byte(seed)
	b := make([]byte, size)
	rand.NewChaCha8(key).Read(b)
	return b
}

// synced makes the target a standby of the old image, if it exists.
func (s *scene) synced() {
	if s.old == nil {
		return
	}
	if _, err := Patch(s.user, s.options, s.deltaTo(s.old)); err != nil {
		s.Fatal(err)
	}
}

// interrupted leaves an apply for a recovery: half written, or, if the target is missing,
// killed after it was created, and removed since.
func (s *scene) interrupted() {
	after := halfWritten
	if s.old == nil {
		after = "recorded"
	}
	s.kill(doomed{Run: anApply, Options: s.options, Delta: s.delta(), After: after})
	if s.old == nil {
		if err := os.Remove(s.options.Target); err != nil {
			s.Fatal(err)
		}
	}
}

// content returns what the target holds on the disk; nil if it is missing.
func (s *scene) content() []byte {
	f, err := blockdev.Open(s.options.Target)
	if exit.StatusOf(err) == exit.NoInput {
		return nil
	}
	if err != nil {
		s.Fatal(err)
	}
	defer f.Close()
	b := blockdev.Buffer(int(f.Size()))
	if n, err := f.ReadAt(b, 0); n < len(b) {
		s.Fatal(err)
	}
	return b
}

// source is the new image.
func (s *scene) source() []byte { return s.new[:s.image.Size] }

// signed is what xb-sig would read of the target: not more than the image that was last there.
func (s *scene) signed() []byte {
	b := s.content()
	if r := s.record(); r.Phase == state.Clean {
		b = b[:min(int64(len(b)), r.Image.Size)]
	}
	return b
}

// deltaTo returns the delta that makes the target that image.
func (s *scene) deltaTo(image []byte) io.Reader {
	var sig, delta bytes.Buffer
	delta.Grow(len(image) + len(image)/16 + 4096) // the race detector follows each byte that is moved
	signature, content := stream.NewSignatureWriter(&sig, header), rdiff.FromPipe(bytes.NewReader(s.signed()))
	if _, err := rdiff.Sign(content, header, signature, rdiff.Options{}); err != nil {
		s.Fatal(err)
	}
	r, err := stream.NewSignatureReader(&sig)
	if err != nil {
		s.Fatal(err)
	}
	encoder, err := stream.NewEncoder(0, 1)
	if err != nil {
		s.Fatal(err)
	}
	h := header
	h.Size = int64(len(image))
	out := rdiff.Outputs{Delta: stream.NewDeltaWriter(&delta, h), Encoder: encoder}
	if _, err := rdiff.Diff(r, rdiff.FromPipe(bytes.NewReader(image)), out, rdiff.Options{}); err != nil {
		s.Fatal(err)
	}
	return &delta
}

// header is that of all streams here.
var header = stream.Header{BlockSize: 4096, Hash: stream.XXH64, Size: -1}

func digestOf(t *testing.T, image []byte) stream.Image {
	digest, err := rdiff.Sign(rdiff.FromPipe(bytes.NewReader(image)), header, nil, rdiff.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

// delta writes that to the new image to a file.
func (s *scene) delta() string {
	path := filepath.Join(s.TempDir(), "delta")
	text, err := io.ReadAll(s.deltaTo(s.source()))
	if err == nil {
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil {
		s.Fatal(err)
	}
	return path
}

// patch is the next run.
func (s *scene) patch() error {
	_, err := Patch(s.user, s.options, s.deltaTo(s.source()))
	return err
}

// record returns what is remembered of the target.
func (s *scene) record() *state.Record {
	t, err := find(s.user, s.options)
	if err != nil {
		s.Fatal(err)
	}
	r, err := t.device.Load()
	if err != nil {
		s.Fatal(err)
	}
	return r
}

func (s *scene) wantTarget(want row) {
	now := s.content()
	is := map[string]bool{
		"old": bytes.Equal(now, s.old),
		"new": bytes.Equal(now, s.new),
		"mix": true,
	}
	if !is[want.target] {
		s.Errorf("the target is not %s", want.target)
	}
	if want.after == halfWritten && (is["old"] || is["new"]) {
		s.Error("the target is no mix: the run was not killed while it wrote")
	}
}

func (s *scene) wantState(want string, before *state.Record) {
	r := s.record()
	if want == "before" {
		if !reflect.DeepEqual(r, before) {
			s.Errorf("the state is %+v, and was %+v", r, before)
		}
		return
	}
	if string(r.Phase) != want {
		s.Errorf("the state is %s, want %s", r.Phase, want)
	}
	if (r.Phase == state.Clean || r.Phase == state.Applying) && r.Image != s.image {
		s.Errorf("the state has the image %s, want %s", r.Image, s.image)
	}
}

func (s *scene) wantSpool(want string) {
	found, err := filepath.Glob(filepath.Join(s.options.StateDir, "spool", "*"))
	if err != nil {
		s.Fatal(err)
	}
	is := "none"
	switch {
	case len(found) > 1:
		is = strings.Join(found, " ")
	case len(found) == 1 && strings.HasSuffix(found[0], ".delta.part"):
		is = "part"
	case len(found) == 1 && strings.HasSuffix(found[0], ".delta"):
		is = "whole"
	}
	if is != want {
		s.Errorf("the spool is %s, want %s", is, want)
	}
}

// wantNew demands that all is as after a run that nobody killed.
func (s *scene) wantNew() {
	if !bytes.Equal(s.content(), s.new) {
		s.Error("the target is not the new image after the cure")
	}
	s.wantState("clean", nil)
	s.wantSpool("none")
}

// doomed is a run that ends itself by SIGKILL after a step. It is done by a child of the
// test: nothing is cleaned up, and no lock is left.
type doomed struct {
	Run     string
	Options Options
	Delta   string // a file
	After   string
	Targets []string // of a commit
}

func (s *scene) kill(d doomed) {
	s.Helper()
	text, err := json.Marshal(d)
	if err != nil {
		s.Fatal(err)
	}
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), "XB_STANDBY_DOOMED="+string(text))
	out, err := c.CombinedOutput()
	if status, ok := c.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		s.Fatalf("%s was not killed after %q: %v: %s", d.Run, d.After, err, out)
	}
}

func TestMain(m *testing.M) {
	if text := os.Getenv("XB_STANDBY_DOOMED"); text != "" {
		var d doomed
		err := json.Unmarshal([]byte(text), &d)
		if err == nil {
			err = d.die()
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// die returns only if the run ends before its step.
func (d doomed) die() error {
	if d.Run == aCommit || d.Run == aSetRecovery {
		return d.dieTogether()
	}
	if d.Run == aConsent {
		if _, err := Discard(new(quiet), d.Options, "root"); err != nil {
			return err
		}
		dieNow()
	}
	in, err := d.open()
	if err != nil {
		return err
	}
	t, err := open(&quiet{deadly: d.After == halfWritten}, d.Options)
	if err != nil {
		return err
	}
	switch d.Run {
	case anApply:
		if err = t.checkRecord(); err == nil {
			err = walkTo(newApply(t, in), slices.Concat(arriving, beginning, finishing), d.After)
		}
	case aHold:
		err = walkTo(newApply(t, in), slices.Concat(arriving, holding), d.After)
	case aRecovery:
		err = walkTo(newApply(t, nil), slices.Concat(resuming, finishing), d.After)
	case aFirstCopy:
		c := newFirstCopy(t, in)
		if !slices.Contains(names(marking), d.After) {
			return walkTo(c, copying, d.After)
		}
		// These come when the first frame has been proved.
		var r *stream.DeltaReader
		if err = c.prove(); err == nil {
			r, err = stream.NewDeltaReader(in)
		}
		if err == nil {
			err = c.checkHeader(r.Header)
		}
		if err == nil {
			err = walkTo(c, marking, d.After)
		}
	}
	return err
}

// open opens the delta as a pipe would bring it: one that is deadly in the middle, if the
// run is to die there.
func (d doomed) open() (io.Reader, error) {
	f, err := os.Open(d.Delta)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	end := info.Size() + 1
	switch {
	case d.After == "half received":
		end = info.Size() / 2
	case d.After == halfWritten && d.Run == aFirstCopy:
		end = info.Size() * 7 / 8
	}
	return &deadlyReader{f, end}, nil
}

// deadlyReader ends the process when so many bytes have been read.
type deadlyReader struct {
	r    io.Reader
	left int64
}

func (d *deadlyReader) Read(b []byte) (int, error) {
	if d.left == 0 {
		dieNow()
	}
	n, err := d.r.Read(b[:min(int64(len(b)), d.left)])
	d.left -= int64(n)
	return n, err
}

// walkTo takes the steps up to that one, and no other.
func walkTo[R any](run R, steps []step[R], last string) error {
	for _, s := range steps {
		if err := s.do(run); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if s.name == last {
			dieNow()
		}
	}
	return errors.New("there is no such step")
}

func dieNow() {
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// quiet is a user who says nothing. A deadly one ends the process when most of the spool has
// been read to be written.
type quiet struct {
	deadly      bool
	step        string
	done, total int64
}

func (q *quiet) Warn(string, ...any)        {}
func (q *quiet) Info(string, ...any)        {}
func (q *quiet) Begin(func() bool) Progress { return q }
func (q *quiet) Commit()                    {}
func (q *quiet) Reach(int64)                {}
func (q *quiet) Change(int64)               {}

func (q *quiet) Step(name string, total int64) { q.step, q.done, q.total = name, 0, total }

func (q *quiet) Advance(n int64) {
	if !q.deadly {
		return // it may come from several goroutines
	}
	if q.done += n; q.step == "writing" && q.done > q.total*7/8 {
		dieNow()
	}
}
