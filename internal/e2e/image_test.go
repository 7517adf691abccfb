package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"xen-backup/internal/testkit"
)

const (
	kib = 1 << 10
	mib = 1 << 20
)

// image makes a file of random bytes, the same for the same seed.
func (h *host) image(name string, size int64, seed uint64) {
	h.Helper()
	h.write(name, randomBytes(size, seed))
}

func randomBytes(n int64, seed uint64) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return b
}

// sparse makes a file with a hole, zeroes that are written, and random data, in
// turn and in pieces whose borders are no blocks'.
func (h *host) sparse(name string, size int64, seed uint64) {
	h.Helper()
	f, err := os.Create(h.path(name))
	if err != nil {
		h.Fatal(err)
	}
	defer f.Close()
	random := rand.New(rand.NewPCG(seed, 1))
	for off := int64(0); off < size; {
		n := min(random.Int64N(300*kib)+1, size-off)
		switch random.IntN(3) {
		case 0:
			_, err = f.WriteAt(randomBytes(n, seed+uint64(off)), off)
		case 1:
			_, err = f.WriteAt(make([]byte, n), off)
		}
		if err != nil {
			h.Fatal(err)
		}
		off += n
	}
	if err := f.Truncate(size); err != nil {
		h.Fatal(err)
	}
}

func (h *host) write(name string, content []byte) {
	h.Helper()
	if err := os.WriteFile(h.path(name), content, 0o600); err != nil {
		h.Fatal(err)
	}
}

func (h *host) read(name string) []byte {
	h.Helper()
	b, err := os.ReadFile(h.path(name))
	if err != nil {
		h.Fatal(err)
	}
	return b
}

// noForks keeps other tests from starting a program until what it returns is called: before such a one runs, it has open
// what this process has, and a device that is open is in use.
func noForks() (forks func()) {
	syscall.ForkLock.RLock()
	return syscall.ForkLock.RUnlock
}

// change overwrites n pieces of up to 20000 bytes of a file or device, some with
// zeroes.
func (h *host) change(name string, n int, seed uint64) {
	h.Helper()
	defer noForks()()
	f, err := os.OpenFile(h.path(name), os.O_RDWR, 0)
	if err != nil {
		h.Fatal(err)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		h.Fatal(err)
	}
	random := rand.New(rand.NewPCG(seed, 2))
	for i := range n {
		b := make([]byte, min(1+random.Int64N(20000), size))
		if i%4 != 3 {
			copy(b, randomBytes(int64(len(b)), seed+uint64(i)))
		}
		if _, err := f.WriteAt(b, random.Int64N(size-int64(len(b))+1)); err != nil {
			h.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		h.Fatal(err)
	}
}

// loop makes a file a block device, which is called by its path.
func (h *host) loop(file string) string {
	h.Helper()
	needRoot(h.T)
	dev := strings.TrimSpace(h.must("losetup --find --show " + file))
	h.Cleanup(func() {
		// The test may have detached it, and then another one may have got its number.
		backing, _ := os.ReadFile("/sys/block/" + filepath.Base(dev) + "/loop/backing_file")
		if strings.HasPrefix(string(backing), h.dir) {
			h.sh("losetup --detach " + dev)
		}
	})
	testkit.Count(h, dev)
	return dev
}

// TestLoopCounts makes a loop device of one that a test has left when it was killed.
func TestLoopCounts(t *testing.T) {
	h := newHost(t)
	h.image("disk", mib, 1)
	for range 20 { // another test may get its number
		dev := h.loop("disk")
		iostats := "/sys/block/" + filepath.Base(dev) + "/queue/iostats"
		h.Cleanup(func() { h.must("echo 1 >" + iostats) })
		h.must("echo 0 >" + iostats + " && losetup --detach " + dev)
		if h.loop("disk") == dev {
			if counts := h.must("cat " + iostats); counts != "1\n" {
				t.Errorf("it counts %q", counts)
			}
			return
		}
	}
}

// tmpfs mounts an empty file system that has room for size.
func (h *host) tmpfs(dir, size string) {
	h.Helper()
	needRoot(h.T)
	h.must("mkdir " + dir + " && mount -t tmpfs -o size=" + size + " xb-e2e " + dir)
	h.Cleanup(func() { h.sh("umount " + dir) })
}

func (h *host) sameBytes(a, b string) {
	h.Helper()
	if r := h.sh("cmp " + a + " " + b); r.status != 0 {
		h.Fatalf("not the same: %s%s", r.out, r.err)
	}
}

func (h *host) digest(name string) [32]byte {
	h.Helper()
	path := name
	if !filepath.IsAbs(path) {
		path = h.path(name)
	}
	defer noForks()()
	f, err := os.Open(path)
	if err != nil {
		h.Fatal(err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		h.Fatal(err)
	}
	return [32]byte(sum.Sum(nil))
}

// files lists what there is on the host, with what a stat tells of it. It leaves
// out what a run may leave behind although it is refused: its lock, an empty
// directory for spools, and what xb-sig saw.
func (h *host) files() map[string]string {
	h.Helper()
	found := make(map[string]string)
	for _, top := range []string{h.dir, h.state} {
		err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
			if os.IsNotExist(err) {
				return nil
			}
			if err != nil || entry.IsDir() || strings.HasSuffix(path, ".lock") || strings.HasSuffix(path, ".seen") {
				return err
			}
			info, err := entry.Info()
			if err == nil {
				found[path] = info.Mode().String() + info.ModTime().String()
			}
			return err
		})
		if err != nil {
			h.Fatal(err)
		}
	}
	return found
}

// untouched returns a check that a target still has its bytes, and that nothing
// was written or left behind anywhere on the host.
func (h *host) untouched(target string) (check func()) {
	h.Helper()
	digest, files := h.digest(target), h.files()
	return func() {
		h.Helper()
		if h.digest(target) != digest {
			h.Errorf("%s was changed", target)
		}
		now := h.files()
		for path := range files {
			if now[path] != files[path] {
				h.Errorf("%s was %s and is %q", path, files[path], now[path])
			}
		}
		for path := range now {
			if files[path] == "" {
				h.Errorf("%s was made", path)
			}
		}
	}
}

func decode(t testing.TB, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
}

// escaped is how a path stands in the names of its state's files.
func escaped(path string) string { return url.PathEscape(path) }

// stateFile returns the file with the state of a target.
func (h *host) stateFile(target string) string {
	return h.state + "/" + escaped(h.path(target)) + ".json"
}
