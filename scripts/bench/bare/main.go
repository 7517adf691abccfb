// Bare applies the delta on standard input to TARGET as xb-patch would if safety
// did not matter: it writes each frame as it arrives, and syncs. What xb-patch
// takes longer is the price of spooling, proving and re-reading.
//
//	bare TARGET
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"xen-backup/internal/stream"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bare:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: bare TARGET")
	}
	target, err := os.OpenFile(args[0], os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer target.Close()
	delta, err := stream.NewDeltaReader(os.Stdin)
	if err != nil {
		return err
	}
	var frame stream.Frame
	buf := make([]byte, 0, stream.MaxLiteral)
	for {
		err := delta.Next(&frame)
		if err == io.EOF {
			return target.Sync()
		} else if err != nil {
			return err
		}
		raw, err := frame.Decode(buf)
		if err != nil {
			return err
		}
		if err := write(target, &frame, raw, int64(delta.Header.BlockSize)); err != nil {
			return err
		}
	}
}

// write writes one frame. The bench's scattered changes are never zeroes.
func write(target io.WriterAt, f *stream.Frame, raw []byte, blockSize int64) error {
	for _, r := range f.Runs {
		if r.Zero {
			return errors.New("cannot write zero runs")
		}
		n := min(r.Count*blockSize, int64(len(raw)))
		if _, err := target.WriteAt(raw[:n], r.First*blockSize); err != nil {
			return err
		}
		raw = raw[n:]
	}
	return nil
}
