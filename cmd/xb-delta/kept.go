package main

import (
	"cmp"
	"io"
	"os"

	"xen-backup/internal/base"
	"xen-backup/internal/blockdev"
	"xen-backup/internal/cli"
	"xen-backup/internal/exit"
	"xen-backup/internal/extent"
	"xen-backup/internal/rdiff"
	"xen-backup/internal/snapshot"
	"xen-backup/internal/stream"
)

// kept is a basis that is at hand: the snapshot from which the target's image was sent, with the extents in which the
// source may differ from it.
type kept struct {
	env      *cli.Env
	src      *source
	since    *blockdev.Source
	images   [2]*blockdev.File // since and src, to be read past the page cache: many scattered blocks at once
	identity string
	image    stream.Image // what the snapshot holds, and the target
	list     *extent.Reader
	file     *os.File // of the list; nil: standard input
}

func openKept(env *cli.Env, o options, src *source) (_ basis, err error) {
	r, err := readRecord(env, o.basis)
	if err != nil {
		return nil, err
	}
	k := &kept{env: env, src: src, identity: r.Identity}
	if k.image, err = stream.ParseImage(r.Image); err != nil {
		return nil, err
	}
	if k.since, err = blockdev.OpenSource(o.since, false); err != nil {
		return nil, err
	}
	k.since.SetPace(src.pace)
	if err = k.checkBase(r, o); err == nil {
		err = k.openImages()
	}
	if err == nil {
		err = k.openList(env, o.extents)
	}
	if err != nil {
		k.close()
		return nil, err
	}
	return k, nil
}

// maxRecord bounds the record of a base, in bytes.
const maxRecord = 64 << 10

func readRecord(env *cli.Env, name string) (*base.Record, error) {
	in := env.Stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, exit.OpenFailed(err)
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxRecord+1))
	if err != nil {
		return nil, exit.Fail(exit.IOError, "%s: %w", name, err)
	}
	r, err := base.Parse(text)
	if err != nil {
		return nil, exit.Fail(exit.BadStream, "%s is not the record of one base: %w", name, err)
	}
	return r, nil
}

// checkBase demands that the snapshot is the one of the record, and is what it was. A snapshot of the same name that is
// older or newer would have less sent than the target needs, and nothing would tell.
func (k *kept) checkBase(r *base.Record, o options) error {
	if k.src.file.Is(o.since) {
		return exit.Fail(exit.Usage, "%s and %s are the same snapshot", o.since, o.source)
	}
	identity, err := k.identityNow()
	if err != nil {
		return err
	}
	if identity != k.identity || k.since.Size() != k.image.Size {
		return exit.Fail(exit.NotBasis, "%s is not the snapshot that %s names (%s), or is not what it was: compare the disk in full, "+
			"with the signature of the target", o.since, o.basis, r.Snapshot)
	}
	return nil
}

// identityNow returns the identity of the snapshot that is being read.
func (k *kept) identityNow() (string, error) {
	identity, err := snapshot.Identity(k.since.Path())
	if err == nil && !k.since.Is(k.since.Path()) {
		err = exit.Fail(exit.BadSnapshot, "%s was replaced by another snapshot while it was read", k.since.Path())
	}
	return identity, err
}

func (k *kept) openImages() (err error) {
	for i, s := range []*blockdev.Source{k.since, k.src.file} {
		if err == nil {
			k.images[i], err = s.Reread()
		}
	}
	return err
}

func (k *kept) openList(env *cli.Env, name string) (err error) {
	in := io.Reader(nil)
	if name == "" || name == "-" {
		if in, err = env.BinaryIn(); err != nil {
			return err
		}
	} else {
		if k.file, err = os.Open(name); err != nil {
			return exit.OpenFailed(err)
		}
		in = k.file
	}
	k.list = extent.NewReader(in)
	return nil
}

func (k *kept) header() stream.Header {
	return stream.Header{BlockSize: k.image.BlockSize, Hash: k.image.Hash}
}

func (k *kept) compare(out rdiff.Outputs, o rdiff.Options) (rdiff.Result, error) {
	result, err := rdiff.Track(k.list, k.image, k.images[0], k.images[1], out, o)
	if listed := k.list.Bytes(); err == nil && listed > result.Source.Size/2 {
		k.env.Info("%d of %d bytes were listed: where it is more than half, a comparison in full is quicker", listed, result.Source.Size)
	}
	return result, err
}

// check demands, after the last read, that both snapshots are what they were. Whatever happened to one of them, what was
// read is worthless, and to try again does not help.
func (k *kept) check() error {
	err := cmp.Or(k.src.check(), k.since.Check())
	if exit.StatusOf(err) == exit.Busy {
		return exit.Fail(exit.BadSnapshot, "%w", err)
	}
	if err != nil {
		return err
	}
	identity, err := k.identityNow()
	switch status := exit.StatusOf(err); {
	case status == exit.NoInput, status == exit.Usage: // it was there, and had one
		return exit.Fail(exit.BadSnapshot, "%w", err)
	case err == nil && identity != k.identity:
		return exit.Fail(exit.BadSnapshot, "%s was changed while it was read", k.since.Path())
	}
	return err
}

func (k *kept) close() {
	k.since.Close()
	for _, image := range k.images {
		if image != nil {
			image.Close()
		}
	}
	if k.file != nil {
		k.file.Close()
	}
}
