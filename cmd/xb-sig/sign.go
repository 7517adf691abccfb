package main

import (
	"io"
	"time"

	"xen-backup/internal/cli"
	"xen-backup/internal/rdiff"
	"xen-backup/internal/standby"
	"xen-backup/internal/stream"
)

// signInput signs standard input.
func signInput(env *cli.Env, out io.Writer, o options) error {
	in, err := env.BinaryIn()
	if err != nil {
		return err
	}
	return sign(env, rdiff.FromPipe(in), out, o, nil)
}

// signTarget signs a device or file, and remembers what it held.
func signTarget(env *cli.Env, out io.Writer, o options) error {
	basis, err := standby.OpenBasis(o.basis)
	if err != nil {
		return err
	}
	defer basis.Close()
	return sign(env, basis, out, o, func(image stream.Image) error {
		if err := basis.Check(); err != nil {
			return err
		}
		if err := basis.Remember(image); err != nil {
			env.Info("not recorded: %v", err)
		}
		return nil
	})
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
		progress.Advance(done)
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
