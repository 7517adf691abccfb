// Command xb-sig writes the signature of a device or file: see xb-sig(1).
package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/cli"
	"xen-backup/internal/exit"
	"xen-backup/internal/inspect"
	"xen-backup/internal/rdiff"
	"xen-backup/internal/state"
	"xen-backup/internal/stream"
	"xen-backup/internal/text"
)

const usage = `Usage: xb-sig [OPTION]... DEV|FILE|-
       xb-sig --info [--json] [FILE]

Read a block device, a file or standard input (-) and write its signature, one
hash a block, to standard output, for xb-delta.

  -b, --block-size SIZE  compare in blocks of SIZE, 4K (default) to 1M
      --hash NAME        xxh64 (default), or sha256 where guests are hostile
      --size SIZE        sign only the first SIZE bytes
      --missing-ok       a target that does not exist has a signature of size 0
      --state-dir DIR    where this host remembers its devices
                         (default $XB_STATE_DIR or /var/lib/xen-backup)
      --info             describe the signature or delta in FILE or on stdin
      --json             with --info: as a JSON object
      --progress[=WHEN]  show progress: always, auto (default) or never
      --heartbeat        say on stderr every ten seconds whether it goes on
      --summary FILE     write the figures of the run to FILE as JSON
  -v, --verbose          say more
  -q, --quiet            say only errors
  -h, --help             print this help
  -V, --version          print the version

Sizes are bytes, or have a unit K, M, G or T (powers of 1024).
Exit status: 0 done, 64 usage, 65 wrong size or bad stream, 66 no such device, 73
cannot create the summary, 74 I/O error, 76 not a stream (--info), 78 unusable
state, 83 an apply on DEV is unfinished. See xb-sig(1).
`

func main() { cli.Main("xb-sig", usage, run) }

type options struct {
	blockSize int64
	hash      stream.Hash
	size      int64
	missingOK bool
	stateDir  string
	info      bool
	json      bool
	progress  string
	heartbeat bool
	summary   string
}

func run(env *cli.Env, args []string) error {
	o := options{blockSize: stream.DefaultBlockSize, hash: stream.XXH64, size: -1}
	f := env.Flags()
	f.Func("b,block-size", func(s string) (err error) {
		if o.blockSize, err = text.ParseSize(s); err == nil {
			err = stream.CheckBlockSize(o.blockSize)
		}
		return err
	})
	f.Func("hash", func(s string) (err error) { o.hash, err = stream.ParseHash(s); return err })
	f.Size(&o.size, "size")
	f.Bool(&o.missingOK, "missing-ok")
	f.Path(&o.stateDir, "state-dir")
	f.Bool(&o.info, "info")
	f.Bool(&o.json, "json")
	f.ProgressFlag(&o.progress)
	f.Bool(&o.heartbeat, "heartbeat")
	f.Path(&o.summary, "summary")
	operands, err := f.ParsePaths(args)
	switch {
	case err != nil:
		return err
	case o.info && o.json:
		return env.PrintInfo(f, operands, inspect.JSON)
	case o.info:
		return env.PrintInfo(f, operands, inspect.Text)
	case o.json:
		return exit.Fail(exit.Usage, "--json goes with --info")
	case len(operands) != 1:
		return exit.Fail(exit.Usage, "want one device or file, got %d operands", len(operands))
	case operands[0] == "-" && (o.size >= 0 || o.missingOK):
		return exit.Fail(exit.Usage, "--size and --missing-ok need a device or file")
	}
	if err := errors.Join(cli.Distinct(operands[0], o.summary), cli.CheckSummary(o.summary)); err != nil {
		return err
	}
	out, err := env.BinaryOut()
	if err != nil {
		return err
	}
	if operands[0] == "-" {
		in, err := env.BinaryIn()
		if err != nil {
			return err
		}
		return sign(env, rdiff.FromPipe(in), out, o, nil)
	}
	return signFile(env, operands[0], out, o)
}

// signFile signs a device or file and records what it saw.
func signFile(env *cli.Env, path string, out io.Writer, o options) error {
	file, err := blockdev.Open(path)
	if exit.StatusOf(err) == exit.NoInput && o.missingOK {
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			return signMissing(env, path, out, o)
		}
	}
	if err != nil {
		return err
	}
	defer file.Close()
	device, record, err := load(path, o)
	if err != nil {
		return err
	}
	// The image may be smaller than the device: what is behind it is not ours.
	switch {
	case o.size >= 0:
		err = file.Limit(o.size)
	case file.IsBlock():
		err = limitToImage(file, device, record)
	}
	if err != nil {
		return err
	}
	before := file.Witness(file.Size())
	return sign(env, rdiff.FromImage(file), out, o, func(image stream.Image) error {
		if err := file.CheckSnapshot(); err != nil {
			return err
		}
		// A hint for xb-patch, which saves it from reading the target again. It is
		// only worth something if nobody wrote meanwhile.
		if !blockdev.Untouched(before, file.Witness(file.Size())) {
			return nil
		}
		if err := device.SaveSeen(&state.Record{Image: image, Witness: before}); err != nil {
			env.Info("not recorded: %v", err)
		}
		return nil
	})
}

// limitToImage has only the image of the device's last sync read, whichever way it went.
func limitToImage(file *blockdev.File, device *state.Device, record *state.Record) error {
	sent, err := device.Sent()
	if err != nil {
		return err
	}
	last := record
	for _, r := range sent {
		if last.Phase != state.Clean || r.Time.After(last.Time) {
			last = r
		}
	}
	if last.Phase != state.Clean {
		return nil
	}
	if last == record {
		return file.Limit(last.Image.Size)
	}
	return file.Limit(min(last.Image.Size, file.Size())) // it was larger when it was sent
}

// signMissing signs a target that does not exist yet.
func signMissing(env *cli.Env, path string, out io.Writer, o options) error {
	if _, err := os.Stat(filepath.Dir(path)); err == nil {
		if _, _, err := load(path, o); err != nil {
			return err
		}
	}
	return sign(env, rdiff.FromImage(noImage{}), out, o, nil)
}

// load returns what is remembered of a device, unless that is an apply to be
// finished.
func load(path string, o options) (*state.Device, *state.Record, error) {
	identity, err := blockdev.Identity(path)
	if err != nil {
		return nil, nil, err
	}
	device := state.Find(o.stateDir).Device(identity, path)
	record, err := device.Load()
	if err == nil && record.Phase == state.Applying {
		err = exit.Fail(exit.Unfinished, "%s: an apply is unfinished; finish it first: xb-patch --recover %s", path, text.Operand(path))
	}
	return device, record, err
}

func sign(env *cli.Env, src rdiff.Source, out io.Writer, o options, beforeEnd func(stream.Image) error) error {
	start := time.Now()
	progress := env.StartProgress(o.progress)
	defer progress.Stop()
	defer progress.StartHeartbeat(o.heartbeat)()
	progress.Total.Store(max(0, src.Size()))
	read := int64(0)
	h := stream.Header{BlockSize: int(o.blockSize), Hash: o.hash, Size: src.Size()}
	w := stream.NewSignatureWriter(out, h)
	image, err := rdiff.Sign(src, h, w, rdiff.Options{BeforeEnd: beforeEnd, Count: func(done, data int64) error {
		progress.Read.Add(done)
		read += data
		return nil
	}})
	if err != nil {
		return err
	}
	s := env.NewSummary(image, start)
	s.BytesRead, s.BytesSent = read, w.Written()
	return s.Write(o.summary)
}

// noImage is a target that does not exist yet.
type noImage struct{}

func (noImage) Size() int64                                { return 0 }
func (noImage) Readers() int                               { return 1 }
func (noImage) ReadRanges([]blockdev.Range) error          { return nil }
func (noImage) ReadAt([]byte, int64) (int, error)          { return 0, io.EOF }
func (noImage) NextData(int64) (start, end int64, _ error) { return 0, 0, nil }
