package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/cli"
	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/rdiff"
	"xen-backup/internal/stream"
)

// delta opens what is to be read, compares, and says what it found.
func delta(env *cli.Env, o options) error {
	start := time.Now()
	var out io.Writer
	if !o.check {
		var err error
		if out, err = env.BinaryOut(); err != nil {
			return err
		}
	}
	src, frozen, closeSource, err := openSource(env, o)
	if err != nil {
		return err
	}
	defer closeSource()
	progress := env.StartProgress(o.progress)
	defer progress.Stop()
	defer progress.StartHeartbeat(o.heartbeat)()
	sig, closeSignature, err := openSignature(env, o)
	if err != nil {
		return err
	}
	defer closeSignature()

	progress.Total.Store(max(0, src.Size()))
	read := int64(0)
	opts := rdiff.Options{
		Count: func(done, data int64) error {
			progress.Read.Add(done)
			read += data
			if o.check {
				return nil
			}
			return env.CheckReader() // xb-patch may have refused the target
		},
		Changed: func(n int64) { progress.Changed.Add(n) },
		// The end record is what makes the delta complete: it must not leave if what
		// was read is not one image.
		BeforeEnd: func(stream.Image) error { return frozen() },
	}
	w := &writers{h: sig.Header}
	w.h.Size = src.Size()
	defer w.discard()
	if err := w.open(out, o, progress); err != nil {
		return err
	}
	result, err := rdiff.Diff(sig, src, w.Outputs, opts)
	if err != nil {
		// A read that failed because the snapshot is gone: that is the cause to tell.
		if cause := frozen(); cause != nil {
			return cause
		}
		return err
	}
	if err := w.commit(); err != nil {
		return err
	}
	s := env.NewSummary(result.Source, start)
	s.BytesRead, s.BytesSent = read, w.sent()
	s.BytesChanged, s.BlocksChanged = result.Bytes, result.Blocks
	if err := s.Write(o.summary); err != nil {
		return err
	}
	if !o.check {
		return nil
	}
	blocks := sig.Blocks(result.Source.Size)
	if err := env.Print(fmt.Sprintf("blocks %d changed %d bytes %d\n", blocks, result.Blocks, result.Bytes)); err != nil {
		return err
	}
	if result.Differs() {
		return exit.Answer(exit.No)
	}
	return nil
}

// openSource opens the source; frozen tells, after the last read, whether what
// was read is one image.
func openSource(env *cli.Env, o options) (src rdiff.Source, frozen func() error, closeAll func(), err error) {
	if o.source == "-" {
		in, err := env.BinaryIn()
		if err != nil {
			return nil, nil, nil, err
		}
		return rdiff.FromPipe(in), func() error { return nil }, func() {}, nil
	}
	file, err := blockdev.Open(o.source)
	if err != nil {
		return nil, nil, nil, err
	}
	s := &frozenSource{File: file, live: o.allowLive}
	if !s.live {
		s.witness, err = file.WitnessOfSource()
	}
	if err == nil {
		err = s.check()
	} else if gone := file.CheckSnapshot(); gone != nil {
		err = gone
	}
	if err != nil {
		file.Close()
		return nil, nil, nil, err
	}
	return rdiff.FromImage(file), s.check, func() { file.Close() }, nil
}

// frozenSource is a source that nobody may write to while it is read.
type frozenSource struct {
	*blockdev.File
	live    bool   // somebody may, all the same
	witness string // from before the first read; "" if it needs none
}

// check tells whether what was read so far is one image. A snapshot that is lost or was
// given up is the cause of whatever else is found.
func (s *frozenSource) check() error {
	err := s.untouched()
	if gone := s.CheckSnapshot(); gone != nil {
		return gone
	}
	return err
}

func (s *frozenSource) untouched() error {
	if s.live {
		return nil
	}
	if err := s.CheckFrozen(); err != nil {
		return err
	}
	if s.witness != "" && !blockdev.Untouched(s.witness, s.Witness(-1)) {
		return exit.Fail(exit.Busy, "%s was written to while it was read, and what was read is no whole image; "+
			"read a snapshot of it (xb-snap create), or say --allow-live", s.Path())
	}
	return nil
}

func openSignature(env *cli.Env, o options) (*stream.SignatureReader, func(), error) {
	in, closeFile := io.Reader(nil), func() {}
	if o.signature == "" || o.signature == "-" {
		var err error
		if in, err = env.BinaryIn(); err != nil {
			return nil, nil, err
		}
	} else {
		f, err := os.Open(o.signature)
		if err != nil {
			return nil, nil, exit.OpenFailed(err)
		}
		in, closeFile = f, func() { f.Close() }
	}
	sig, err := stream.NewSignatureReader(in)
	if err != nil {
		closeFile()
	}
	return sig, closeFile, err
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
		out = &sender{Writer: out, rate: o.bwlimit, progress: progress}
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

// sender writes the delta, at a limited rate if one is given.
type sender struct {
	io.Writer
	rate     int64 // bytes a second; 0: no limit
	progress *cli.Progress
	next     time.Time // when the next byte may go
}

func (s *sender) Write(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		part := b[n:]
		if s.rate > 0 {
			part = part[:min(int64(len(part)), max(1, s.rate/10))]
			if now := time.Now(); s.next.Before(now) {
				s.next = now
			}
			time.Sleep(time.Until(s.next))
			s.next = s.next.Add(time.Duration(float64(len(part)) / float64(s.rate) * float64(time.Second)))
		}
		var m int
		m, err = s.Writer.Write(part)
		n += m
		s.progress.Sent.Add(int64(m))
	}
	return n, err
}
