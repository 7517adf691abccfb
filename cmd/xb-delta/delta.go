package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/cli"
	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/pace"
	"xen-backup/internal/rdiff"
	"xen-backup/internal/stream"
)

// delta opens what is to be read, compares, and says what it found.
func delta(env *cli.Env, o options) error {
	start := time.Now()
	out, err := openOutput(env, o)
	if err != nil {
		return err
	}
	src, err := openSource(env, o)
	if err != nil {
		return err
	}
	defer src.close()
	progress := env.StartProgress(o.progress)
	defer progress.Stop()
	defer progress.StartHeartbeat(o.heartbeat)()
	stop, err := progress.KeepIn(o.progressFile)
	if err != nil {
		return err
	}
	defer stop()
	b, err := openBasis(env, o, src)
	if err != nil {
		return err
	}
	defer b.close()

	progress.Total.Store(max(0, src.Size()))
	w := &writers{h: b.header()}
	w.h.Size = src.Size()
	defer w.discard()
	if err := w.open(out, o, progress); err != nil {
		return err
	}
	read, found := int64(0), places{}
	result, err := b.compare(w.Outputs, rdiff.Options{
		Count: func(done, data int64) error {
			progress.Advance(done)
			read += data
			return w.checkReader(env)
		},
		Changed: func(off, n int64) {
			progress.Change(n)
			found.add(off, n)
		},
		// The end record is what makes the delta complete: it must not leave if what was
		// read is not one image.
		BeforeEnd: func(stream.Image) error { return b.check() },
	})
	if err != nil {
		// A read that failed because the snapshot is gone: that is the cause to tell.
		return cmp.Or(b.check(), err)
	}
	progress.Reach(result.Source.Size)
	if err := w.commit(); err != nil {
		return err
	}
	s := env.NewSummary(result.Source, start)
	s.BytesRead, s.BytesSent, s.Tracked, s.Source = read, w.sent(), o.since != "", src.identity
	s.BytesChanged, s.BlocksChanged = result.Bytes, result.Blocks
	if o.check {
		s.FirstChanged = found.at
	}
	if err := s.Write(o.summary); err != nil || !o.check {
		return err
	}
	return answer(env, w.h.Blocks(result.Source.Size), result)
}

// basis is what is known of the target's image, and compares it with the source.
type basis interface {
	header() stream.Header
	compare(rdiff.Outputs, rdiff.Options) (rdiff.Result, error)
	check() error // after the last read: that what was read of the source, and of the basis, is one image
	close()
}

func openBasis(env *cli.Env, o options, src *source) (basis, error) {
	if o.since != "" {
		return openKept(env, o, src)
	}
	return openSignature(env, o, src)
}

// openOutput returns where the delta goes, nil with --check.
func openOutput(env *cli.Env, o options) (io.Writer, error) {
	if o.check {
		return nil, nil
	}
	return env.BinaryOut()
}

// answer is what --check prints.
func answer(env *cli.Env, blocks int64, r rdiff.Result) error {
	if err := env.Print(fmt.Sprintf("blocks %d changed %d bytes %d\n", blocks, r.Blocks, r.Bytes)); err != nil {
		return err
	}
	if r.Differs() {
		return exit.Answer(exit.No)
	}
	return nil
}

// source is what is read: a file that nobody may write to, or standard input.
type source struct {
	rdiff.Source
	file *blockdev.Source // nil: standard input
	pace *pace.Pace

	identity string // of the file
}

func openSource(env *cli.Env, o options) (*source, error) {
	p := env.StartPace(o.pace)
	if o.source == "-" {
		in, err := env.BinaryIn()
		if err != nil {
			return nil, err
		}
		return &source{Source: rdiff.FromPipe(in)}, nil
	}
	identity, err := blockdev.Identity(o.source)
	if err != nil {
		return nil, err
	}
	file, err := blockdev.OpenSource(o.source, o.allowLive)
	if err != nil {
		return nil, err
	}
	file.SetPace(p)
	return &source{rdiff.FromImage(file), file, p, identity}, nil
}

// check demands, after the last read, that what was read is one image.
func (s *source) check() error {
	if s.file == nil {
		return nil
	}
	return s.file.Check()
}

func (s *source) close() {
	if s.file != nil {
		s.file.Close()
	}
}

// signature is a basis of which the target's host has told the hashes.
type signature struct {
	*stream.SignatureReader
	src  *source
	file *os.File // nil: standard input
}

func openSignature(env *cli.Env, o options, src *source) (_ basis, err error) {
	s := &signature{src: src}
	in := io.Reader(nil)
	if o.signature == "" || o.signature == "-" {
		if in, err = env.BinaryIn(); err != nil {
			return nil, err
		}
	} else {
		if s.file, err = os.Open(o.signature); err != nil {
			return nil, exit.OpenFailed(err)
		}
		in = s.file
	}
	if s.SignatureReader, err = stream.NewSignatureReader(in); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *signature) header() stream.Header { return s.Header }

func (s *signature) compare(out rdiff.Outputs, o rdiff.Options) (rdiff.Result, error) {
	return rdiff.Diff(s.SignatureReader, s.src, out, o)
}

func (s *signature) check() error { return s.src.check() }

func (s *signature) close() {
	if s.file != nil {
		s.file.Close()
	}
}

// maxEncoders is how many frames are compressed at once: more would be faster than
// any link, and cost memory that a Dom0 needs for its guests.
const maxEncoders = 4

// writers are the outputs of a run.
type writers struct {
	h stream.Header
	rdiff.Outputs
	newSignature *durable.PendingFile
}

func (w *writers) open(out io.Writer, o options, progress *cli.Progress) (err error) {
	if out != nil {
		out = &sender{Writer: out, rate: pace.Bucket{Rate: o.bwlimit}, sent: &progress.Sent}
		w.Delta = stream.NewDeltaWriter(out, w.h)
		if err := w.Delta.Flush(); err != nil { // by its header alone the delta may be refused
			return err
		}
		w.Encoder, err = stream.NewEncoder(o.level, min(runtime.GOMAXPROCS(0), maxEncoders))
	}
	if o.newSignature == "" || err != nil {
		return err
	}
	if w.newSignature, err = durable.CreatePending(o.newSignature); err != nil {
		return err
	}
	w.Signature = stream.NewSignatureWriter(w.newSignature, w.h)
	return nil
}

// checkReader finds out early that nobody reads the delta: xb-patch may have refused the target.
func (w *writers) checkReader(env *cli.Env) error {
	if w.Delta == nil {
		return nil
	}
	return env.CheckReader()
}

// commit gives the new signature its name, after the delta is out.
func (w *writers) commit() error {
	if w.newSignature == nil {
		return nil
	}
	return w.newSignature.Commit()
}

func (w *writers) discard() {
	if w.newSignature != nil {
		w.newSignature.Discard()
	}
}

func (w *writers) sent() int64 {
	if w.Delta == nil {
		return 0
	}
	return w.Delta.Written()
}
