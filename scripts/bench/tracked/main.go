// Tracked measures what a run costs of which the storage tells what has changed: how much is read here and there, how
// long it takes, and how much CPU time; beside a comparison in full, and beside a bare apply of the same delta. It makes
// images of several sizes with the same amount of data on XFS, on a loop device in a directory of its own. The commands
// and bare have to be on the PATH: see scripts/bench/run --tracked --help.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"xen-backup/internal/base"
	"xen-backup/internal/snapshot"
	"xen-backup/internal/text"
)

const usage = `usage: scripts/bench/run --tracked [OPTION]...
Makes images of several sizes with the same amount of data on XFS, on a loop
device, changes a share of the data again and again, and has a copy follow by
xb-snap changes | xb-delta --since | xb-patch. Prints medians: what was read,
wall and CPU seconds, beside a comparison in full, and beside a bare apply (a
program that spools and syncs the same delta, reads the old blocks, writes the
new ones, syncs and reads them back).

Needs root, Go, xfsprogs, and 4 times the data of disk below $TMPDIR, by default
/var/tmp. In less than two minutes: --sizes "1G 4G" --data 256M --rounds 1

`

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "tracked:", err)
		os.Exit(1)
	}
}

type settings struct {
	sizes   []int64
	data    int64
	changed []float64 // percent of the data
	rounds  int
	cached  bool // by the page cache below the loop device
	full    bool // compare in full, too
	check   bool

	ctx context.Context // it ends with a signal; what is under way ends first, and nothing is left behind
}

func parse() (s settings, err error) {
	sizes := flag.String("sizes", "4G 16G 64G", "of the images")
	data := flag.String("data", "4G", "in each image")
	changed := flag.String("changed", "0 0.1 1 10", "percent of the data")
	flag.IntVar(&s.rounds, "rounds", 3, "of which the medians are shown")
	flag.BoolVar(&s.cached, "cached", false, "let the disk be in the page cache")
	noFull := flag.Bool("no-full", false, "compare nothing in full")
	flag.BoolVar(&s.check, "check", false, "end with 1 if a bar is missed")
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), usage)
		flag.PrintDefaults()
	}
	flag.Parse()
	s.full = !*noFull
	if s.data, err = text.ParseSize(*data); err != nil {
		return s, err
	}
	for _, word := range strings.Fields(*sizes) {
		n, err := text.ParseSize(word)
		if err != nil || n < s.data {
			return s, fmt.Errorf("%q is no size of at least %s", word, *data)
		}
		s.sizes = append(s.sizes, n)
	}
	for _, word := range strings.Fields(*changed) {
		p, err := strconv.ParseFloat(word, 64)
		if err != nil || p < 0 || p > 100 {
			return s, fmt.Errorf("%q is no percentage", word)
		}
		s.changed = append(s.changed, p)
	}
	return s, nil
}

func run() error {
	s, err := parse()
	if err != nil {
		return err
	}
	var stop func()
	s.ctx, stop = signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var rows []*row
	for _, size := range s.sizes {
		of, err := measure(s, size)
		if err != nil {
			return err
		}
		rows = append(rows, of...)
	}
	if missed := report(s, rows); missed > 0 && s.check {
		return fmt.Errorf("%d bars were missed", missed)
	}
	return nil
}

// bench is an image with two copies, one of which is a standby, and the other what is applied to barely.
type bench struct {
	settings
	dir, fs string
	size    int64
	disk    *os.File
	places  []int64 // of the blocks with data
	random  *rand.Rand
	snap    string // the base
}

const blockSize = 4096

func measure(s settings, size int64) (rows []*row, err error) {
	b := &bench{settings: s, size: size, random: rand.New(rand.NewPCG(1, 2))}
	tmp := os.Getenv("TMPDIR")
	if tmp == "" {
		tmp = "/var/tmp"
	}
	if b.dir, err = os.MkdirTemp(tmp, "xb-bench."); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.clean()) }()
	os.Setenv("XB_STATE_DIR", b.dir+"/state")
	if err := b.prepare(); err != nil {
		return nil, err
	}
	for _, percent := range s.changed {
		r := &row{size: size, percent: percent}
		rows = append(rows, r)
		for range s.rounds {
			if s.ctx.Err() != nil {
				return nil, errors.New("interrupted")
			}
			if err := b.round(r); err != nil {
				return nil, err
			}
		}
	}
	return rows, b.sh("xb-sig %[1]s/a | xb-delta --check %[2]s && xb-sig %[1]s/b | xb-delta --check %[2]s", b.fs, b.snap)
}

// sh runs a script.
func (b *bench) sh(format string, args ...any) error {
	script := fmt.Sprintf(format, args...)
	if out, err := exec.Command("bash", "-c", "set -euo pipefail; "+script).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", script, err, out)
	}
	return nil
}

func (b *bench) clean() error {
	if b.disk != nil {
		b.disk.Close()
	}
	return b.sh("! mountpoint -q %[1]s/fs || umount %[1]s/fs; rm -rf %[1]s", b.dir)
}

// prepare makes the disk and its copies. The data lies in pieces all over the disk.
func (b *bench) prepare() (err error) {
	b.fs = b.dir + "/fs"
	direct := "on"
	if b.cached {
		direct = "off"
	}
	// The loop device goes with the mount.
	err = b.sh("truncate -s %d %[2]s/image && mkfs.xfs -q -m reflink=1 %[2]s/image && mkdir %[3]s && "+
		"mount $(losetup --find --show --direct-io=%[4]s %[2]s/image) %[3]s && losetup --detach $(findmnt -no SOURCE %[3]s)",
		b.data*6+(4<<30), b.dir, b.fs, direct)
	if err != nil {
		return err
	}
	if b.disk, err = os.OpenFile(b.fs+"/disk", os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return err
	}
	if err := b.disk.Truncate(b.size); err != nil {
		return err
	}
	const pieces = 256
	piece := b.data / pieces &^ (blockSize - 1)
	for i := range int64(pieces) {
		at := b.size / pieces * i &^ (blockSize - 1)
		buf := make([]byte, piece)
		for n := int64(0); n < piece; n += blockSize {
			b.fill(buf[n : n+blockSize])
			b.places = append(b.places, at+n)
		}
		if _, err := b.disk.WriteAt(buf, at); err != nil {
			return err
		}
	}
	if err := b.disk.Sync(); err != nil {
		return err
	}
	if err := b.snapshot(); err != nil {
		return err
	}
	// The one that the standby is made of comes by a first copy, so that its state is what it is in use.
	err = b.sh("cd %s && xb-sig --missing-ok a | xb-delta --summary %s/sent %s | xb-patch -q --create --in-place a && cp --sparse=auto a b && sync -f b",
		b.fs, b.dir, b.snap)
	if err != nil {
		return err
	}
	return b.keep()
}

// fill makes a block that shrinks by half.
func (b *bench) fill(block []byte) {
	for i := 0; i < len(block)/2; i += 8 {
		word := b.random.Uint64()
		for j := range 8 {
			block[i+j] = byte(word >> (8 * j))
		}
	}
}

// change writes new content to a share of the blocks, and takes a snapshot.
func (b *bench) change(percent float64) error {
	block := make([]byte, blockSize)
	for range int(float64(len(b.places)) * percent / 100) {
		b.fill(block)
		if _, err := b.disk.WriteAt(block, b.places[b.random.IntN(len(b.places))]); err != nil {
			return err
		}
	}
	if err := b.disk.Sync(); err != nil {
		return err
	}
	return b.snapshot()
}

// snapshot takes one; the one before is the base still, whose name is in "old".
func (b *bench) snapshot() error {
	out, err := exec.Command("xb-snap", "create", "--owner", "none", b.disk.Name()).Output()
	if err != nil {
		return fmt.Errorf("xb-snap create: %w", err)
	}
	if b.snap != "" {
		if err := os.WriteFile(b.dir+"/old", []byte(b.snap), 0o600); err != nil {
			return err
		}
	}
	b.snap = strings.TrimSpace(string(out))
	return nil
}

// keep makes the last snapshot the base, by the summary of what was sent.
func (b *bench) keep() error {
	sent, err := b.summary("sent")
	if err != nil {
		return err
	}
	identity, err := snapshot.Identity(b.snap)
	if err != nil {
		return err
	}
	record, err := json.Marshal(base.Record{Peer: "b", Disk: "bench/disk", Source: b.disk.Name(), Origin: b.disk.Name(), Snapshot: b.snap,
		Identity: identity, Status: base.Sent, Taken: time.Now(),
		Image: fmt.Sprintf("%s:%d:%d:%s", sent.Hash, sent.BlockSize, sent.ImageSize, sent.Digest)})
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(b.dir + "/old"); err == nil {
		if err := b.sh("xb-snap remove %s && rm %s/old", old, b.dir); err != nil {
			return err
		}
	}
	return os.WriteFile(b.dir+"/base", record, 0o600)
}
