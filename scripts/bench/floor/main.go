// Floor reads files from beginning to end on all cores and hashes every 4 KiB
// block of them: the work that no scan of the same files can do without, and so
// the yardstick of scripts/bench. It prints the megabytes (10^6 bytes) read and
// the seconds taken.
//
//	floor FILE...
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
)

const (
	blockSize = 4096
	pieceSize = 1 << 20 // read at a time: smaller and larger pieces are slower
)

func main() {
	start := time.Now()
	read, err := scan(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "floor:", err)
		os.Exit(1)
	}
	fmt.Printf("%d MB %.3f s\n", read/1e6, time.Since(start).Seconds())
}

// scan reads the files side by side: the pieces are dealt out to one worker a
// core, the same offset of each file in turn. It returns the bytes read.
func scan(paths []string) (int64, error) {
	var (
		read, next atomic.Int64
		workers    sync.WaitGroup
		files      []*os.File
		pieces     int64
	)
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return 0, err
		}
		defer f.Close()
		size, err := f.Seek(0, io.SeekEnd) // a device's size, too
		if err != nil {
			return 0, err
		}
		files = append(files, f)
		pieces = max(pieces, (size+pieceSize-1)/pieceSize*int64(len(paths)))
	}
	errs := make([]error, runtime.GOMAXPROCS(0))
	for w := range errs {
		workers.Go(func() {
			buf := make([]byte, pieceSize)
			for n := next.Add(1) - 1; n < pieces; n = next.Add(1) - 1 {
				f := files[n%int64(len(files))]
				got, err := f.ReadAt(buf, n/int64(len(files))*pieceSize)
				if err != nil && !errors.Is(err, io.EOF) {
					errs[w] = err
					return
				}
				read.Add(int64(got))
				hash(buf[:got])
			}
		})
	}
	workers.Wait()
	return read.Load(), errors.Join(errs...)
}

// hash hashes each block of data. (The hash is assembly: the compiler does not
// know that nobody looks at the result.)
func hash(data []byte) {
	for len(data) > 0 {
		n := min(blockSize, len(data))
		xxhash.Sum64(data[:n])
		data = data[n:]
	}
}
