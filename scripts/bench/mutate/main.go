// Mutate makes TARGET, an exact copy of the image SOURCE, differ from it as the
// standby of a disk in use does: it makes the targets b and c of scripts/bench.
//
//	mutate scattered SOURCE TARGET   1 % of the blocks, evenly spread
//	mutate runs SOURCE TARGET        10 % of the blocks, in runs of 1 to 16 MiB
//
// Only blocks that are not zero in SOURCE are changed, so that a delta cannot
// send any of them for nothing, and each gets the content of another block of
// SOURCE, so that they compress as real data does. The result depends on SOURCE
// alone.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
)

const blockSize = 4096

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 {
		return errors.New("usage: mutate scattered|runs SOURCE TARGET")
	}
	source, err := os.Open(args[1])
	if err != nil {
		return err
	}
	defer source.Close()
	blocks, total, err := dataBlocks(source)
	if err != nil {
		return err
	}
	var chosen []int
	random := rand.New(rand.NewPCG(1, 2))
	switch {
	case len(blocks) < total/4:
		return fmt.Errorf("%s: less than a quarter of it is data", args[1])
	case args[0] == "scattered":
		chosen = scattered(random, len(blocks), total/100)
	case args[0] == "runs":
		chosen = runs(random, len(blocks), total/10)
	default:
		return fmt.Errorf("unknown way %q", args[0])
	}
	target, err := os.OpenFile(args[2], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(change(source, target, blocks, chosen), target.Close())
}

// dataBlocks returns the numbers of the blocks of f that are not all zero, and
// how many blocks f has; a short last block does not count.
func dataBlocks(f *os.File) (blocks []int64, total int, err error) {
	zero := make([]byte, blockSize)
	buf := make([]byte, 256*blockSize)
	for {
		n, err := io.ReadFull(f, buf)
		for data := buf[:n]; len(data) >= blockSize; data = data[blockSize:] {
			if !bytes.Equal(data[:blockSize], zero) {
				blocks = append(blocks, int64(total))
			}
			total++
		}
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			return blocks, total, nil
		default:
			return nil, 0, err
		}
	}
}

// scattered picks count of n places, one in each of count equal parts.
func scattered(random *rand.Rand, n, count int) (chosen []int) {
	for i := range count {
		from, to := i*n/count, (i+1)*n/count
		chosen = append(chosen, from+random.IntN(to-from))
	}
	return chosen
}

// runs picks about count of n places, in runs of 1 to 16 MiB with equal gaps.
func runs(random *rand.Rand, n, count int) (chosen []int) {
	var lengths []int
	for left := count; left > 0; left -= lengths[len(lengths)-1] {
		lengths = append(lengths, min(256+random.IntN(4096-256+1), max(256, left)))
	}
	gap := (n - count) / (len(lengths) + 1)
	at := 0
	for _, length := range lengths {
		at += gap
		for range length {
			chosen = append(chosen, at)
			at++
		}
	}
	return chosen
}

// change overwrites the chosen ones of blocks in target, each with the next
// block, from half the image away on, that differs from it.
func change(source io.ReaderAt, target io.WriterAt, blocks []int64, chosen []int) error {
	was, other := make([]byte, blockSize), make([]byte, blockSize)
	for _, c := range chosen {
		if _, err := source.ReadAt(was, blocks[c]*blockSize); err != nil {
			return err
		}
		for from := c + len(blocks)/2; ; from++ {
			if _, err := source.ReadAt(other, blocks[from%len(blocks)]*blockSize); err != nil {
				return err
			}
			if !bytes.Equal(was, other) {
				break
			}
		}
		if _, err := target.WriteAt(other, blocks[c]*blockSize); err != nil {
			return err
		}
	}
	return nil
}
