// Bare applies the delta on standard input to TARGET without what makes xb-patch safe.
// As it is, it writes each frame as it arrives, and syncs: what xb-patch takes longer is the
// price of spooling, proving and re-reading. With --spool it does that work too, as plainly as
// it can be done: it spools the stream and syncs it, reads the old blocks, writes the new ones,
// syncs, and reads them back from the disk.
//
//	bare [--spool FILE] TARGET
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"xen-backup/internal/stream"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bare:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	spool := ""
	if len(args) == 3 && args[0] == "--spool" {
		spool, args = args[1], args[2:]
	}
	if len(args) != 1 {
		return errors.New("usage: bare [--spool FILE] TARGET")
	}
	target, err := os.OpenFile(args[0], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer target.Close()
	write := func(block []byte, at int64) error { _, err := target.WriteAt(block, at); return err }
	if spool == "" {
		return errors.Join(eachBlock(os.Stdin, 1, write), target.Sync())
	}
	return spooled(spool, target, write)
}

// spooled does all of what xb-patch does with the bytes, and nothing else.
func spooled(path string, target *os.File, write visit) error {
	spool, err := os.Create(path)
	if err != nil {
		return err
	}
	defer os.Remove(path)
	defer spool.Close()
	if _, err := io.Copy(spool, os.Stdin); err != nil {
		return err
	}
	if err := spool.Sync(); err != nil {
		return err
	}
	read := func(block []byte, at int64) error { _, err := target.ReadAt(make([]byte, len(block)), at); return err }
	for _, step := range []func() error{
		func() error { return eachBlock(whole(spool), readers, read) },
		func() error { return eachBlock(whole(spool), readers, write) },
		target.Sync,
		func() error { return unix.Fadvise(int(target.Fd()), 0, 0, unix.FADV_DONTNEED) },
		func() error { return eachBlock(whole(spool), readers, read) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func whole(f *os.File) io.Reader { return io.NewSectionReader(f, 0, 1<<62) }

// readers is how many frames are worked on at once: no disk answers one reader as fast as several.
const readers = 8

type visit func(run []byte, at int64) error

// eachBlock visits the content of each run of a delta, several frames at once. The bench's changes are never zeroes.
func eachBlock(in io.Reader, workers int, do visit) error {
	delta, err := stream.NewDeltaReader(in)
	if err != nil {
		return err
	}
	var (
		group  sync.WaitGroup
		frames = make(chan stream.Frame)
		failed = make(chan error, workers)
	)
	for range workers {
		group.Go(func() {
			buf := make([]byte, 0, stream.MaxLiteral)
			for f := range frames {
				if err := eachRun(&f, buf, int64(delta.Header.BlockSize), do); err != nil {
					failed <- err
					for range frames {
					}
					return
				}
			}
		})
	}
	for err == nil {
		var frame stream.Frame
		if err = delta.Next(&frame); err == nil {
			frames <- frame
		}
	}
	close(frames)
	group.Wait()
	close(failed)
	if err != io.EOF {
		return err
	}
	return <-failed
}

func eachRun(f *stream.Frame, buf []byte, blockSize int64, do visit) error {
	raw, err := f.Decode(buf)
	if err != nil {
		return err
	}
	for _, r := range f.Runs {
		if r.Zero {
			return errors.New("cannot write zero runs")
		}
		n := min(r.Count*blockSize, int64(len(raw)))
		if err := do(raw[:n], r.First*blockSize); err != nil {
			return err
		}
		raw = raw[n:]
	}
	return nil
}
