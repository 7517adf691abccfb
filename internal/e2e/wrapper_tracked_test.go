package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"xen-backup/internal/testkit"
)

// last is what dom0a remembers of its last good copy of a disk to a peer.
type last struct {
	Disk, Peer string
	Tracked    bool
	Read       int64 `json:"bytes_read"`
	Changed    int64 `json:"bytes_changed"`
}

// ran demands that dom0b has the image that dom0a's files are now, byte for byte, that its state has the digest which a
// full reading finds, and that all of these copies were tracked, or none was. It returns how much was read.
func (s *site) ran(tracked bool, files ...string) (read int64) {
	s.Helper()
	for _, file := range files {
		s.same(file, file)
		var found struct{ Digest string }
		text := s.must("dom0a", fmt.Sprintf("xb-sig --summary /run/found %s >/dev/null; cat /run/found", file))
		if err := json.Unmarshal([]byte(text), &found); err != nil {
			s.Fatal(err)
		}
		if now := s.state("dom0b", file); now.Digest != found.Digest || now.Phase != "clean" {
			s.Errorf("%s: a full reading finds %s, and dom0b remembers %+v", file, found.Digest, now)
		}
	}
	for _, l := range s.lastCopies("dom0b") {
		if l.Tracked != tracked {
			s.Errorf("%s: tracked is %v, want %v", l.Disk, l.Tracked, tracked)
		}
		read += l.Read
	}
	s.must("dom0a", `! xb-snap list | grep "	base$"`) // that nobody needs
	s.nothingLeft("dom0a")
	return read
}

func (s *site) lastCopies(peer string) (of []last) {
	s.Helper()
	var list struct{ Source []last }
	if err := json.Unmarshal([]byte(s.must("dom0a", "xb-patch --list --json")), &list); err != nil {
		s.Fatal(err)
	}
	for _, l := range list.Source {
		if l.Peer == peer {
			of = append(of, l)
		}
	}
	if len(of) == 0 {
		s.Errorf("nothing was copied to %s", peer)
	}
	return of
}

// bases returns the paths of the bases on dom0a.
func (s *site) bases() []string {
	s.Helper()
	return strings.Fields(s.must("dom0a", `xb-snap list | sed -n 's/\t.*\tbase of .*//p'`))
}

// scatter changes so many blocks of a file on dom0a, each at its own place.
func (s *site) scatter(file string, blocks int) {
	s.Helper()
	s.must("dom0a", fmt.Sprintf(`for i in $(seq %d); do head -c 100 /dev/urandom | dd of=%s bs=1 seek=$((i * 12288 + 77)) conv=notrunc status=none; done`,
		blocks, file))
}

// TestLongWrapperTracked has each run after the first read only what has changed: on XFS and btrfs, of one disk and of two.
func TestLongWrapperTracked(t *testing.T) {
	for _, fs := range testkit.Some(t, 1, "btrfs", "xfs") {
		t.Run(fs, func(t *testing.T) {
			s := newSite(t)
			if fs == "btrfs" {
				s.must("dom0a", "truncate -s 600M /srv/fs; mkfs.btrfs -q /srv/fs; mkdir /srv/vm; mount -o loop /srv/fs /srv/vm")
			}
			s.must("dom0b", "mkdir /srv/vm")
			s.must("dom0a", "mkdir -p /srv/vm")
			a, b := "/srv/vm/a.img", "/srv/vm/b.img"
			for _, disks := range testkit.Some(t, 1, []string{a, b}, []string{a}) {
				s.domu1(disks...)
				s.must("dom0a", "xb-snap prune --bases --peers ''; rm -rf /var/lib/xen-backup/*")
				s.must("dom0b", "rm -rf /var/lib/xen-backup/* /srv/vm/*")
				s.backup("dom0a").silent(t)
				s.ran(false, disks...)
				for _, blocks := range testkit.Some(t, 2, 40, 0, 5) {
					for _, disk := range disks {
						s.scatter(disk, blocks)
					}
					s.backup("dom0a").silent(t)
					if read, most := s.ran(true, disks...), int64(2*4096*blocks*len(disks)); read != most {
						t.Errorf("%d blocks changed of each of %d disks: %d bytes were read, want %d", blocks, len(disks), read, most)
					}
					if kept := s.bases(); len(kept) != len(disks) {
						t.Errorf("bases: %q", kept)
					}
				}
				s.backup("dom0a", "--verify").silent(t)
				s.ran(true, disks...)
			}
			if log := s.log("dom0a"); !strings.Contains(log, " copied, 0 failed; 2 tracked, 640.0 KiB read; oldest ") {
				t.Errorf("the log:\n%s", log)
			}
		})
	}
}

// TestLongWrapperBaseLost does something to the base, or to what was asked for, between two runs: that run compares in full,
// says why, and the next one is tracked again.
func TestLongWrapperBaseLost(t *testing.T) {
	s := newSite(t)
	s.domu1(xvda)
	s.backup("dom0a").silent(t)
	for _, c := range testkit.Some(t, 2, []struct{ name, spoil, heal, why string }{
		{"removed", "xb-snap remove $base", "", "no such snapshot"},
		{"stale", "mv $base /srv/aside; cp --reflink=always /srv/older $base; chmod 400 $base", "rm /srv/aside", "is not what it was"},
		{"no record", "rm /var/lib/xen-backup/bases/*/*", "", "no snapshot is kept here"},
		{"another disk", "cp /srv/a.img /srv/new; mv /srv/new /srv/a.img", "", "it is of what was called /srv/a.img before"},
		{"given up", "truncate -s 0 $base", "", "no such snapshot"},
		{"foreign", "mv $base /srv/aside; cp /srv/a.img $base; chmod 400 $base", "rm /srv/aside", "is not what it was"},
		{"written to", "chmod 600 $base; printf x | dd of=$base conv=notrunc status=none; chmod 400 $base", "", "is not what it was"},
		{"writable", "chmod 600 $base", "", "can be written to"},
		{"a record of nothing", "for f in /var/lib/xen-backup/bases/*/*; do echo x >$f; done", "", "cannot be used"},
		{"half of it", "head -c 600K /dev/urandom | dd of=/srv/a.img conv=notrunc status=none", "", "more than half of it is listed as changed"},
	}...) {
		t.Log(c.name)
		s.must("dom0a", "cp --reflink=always /srv/a.img /srv/older")
		s.scatter(xvda, 7)
		s.backup("dom0a").silent(t)
		base := s.bases()
		if len(base) != 1 {
			t.Fatalf("bases: %q", base)
		}
		s.ran(true, xvda)
		s.scatter(xvda, 9)
		s.must("dom0a", "base="+base[0]+"; "+c.spoil+"; : >/run/syslog")
		if r := s.backup("dom0a"); r.status != 0 || r.err != "" && !strings.Contains(c.name, "record of nothing") {
			t.Errorf("%s: status %d\n%s", c.name, r.status, r.err)
		}
		s.ran(false, xvda)
		if log := s.log("dom0a"); !strings.Contains(log, c.why) || !strings.Contains(log, "local3.info #### dom0b:/srv/a.img: compared in full: ") {
			t.Errorf("%s: the log:\n%s", c.name, log)
		}
		s.must("dom0a", "rm -f /srv/older; "+c.heal)
	}
	s.backup("dom0a").silent(t)
	s.ran(true, xvda)
}

// TestLongWrapperBaseSpoiled has a base spoiled when it is in use already: that disk is compared in full in the same run.
func TestLongWrapperBaseSpoiled(t *testing.T) {
	s := newSite(t)
	s.domu1(xvda, xvdb)
	s.backup("dom0a").silent(t)
	for _, c := range testkit.Some(t, 2, []struct{ name, changes string }{
		{"the list is cut", `{ $real "$@" | head -c 9; exit 0; }`},
		{"gone while it is read", `{ $real "$@" && $real remove "$5"; exit; }`},
		{"no list", `{ echo 'xb-snap: its extents move' >&2; exit 75; }`},
		{"the list takes long", `kill -STOP $$`},
	}...) {
		s.write("dom0a/sbin/xb-snap", "#!/bin/bash\nreal=/usr/local/bin/xb-snap\n[[ $1 = changes && $* != *b.img* ]] || exec $real \"$@\"\n"+
			c.changes+"\nexec $real \"$@\"\n", 0o755)
		s.scatter(xvda, 7)
		s.scatter(xvdb, 7)
		s.backup("dom0a", "STALL=14").fails(t, 0, "#### dom0b:/srv/a.img: compared in full: ")
		s.must("dom0a", "rm /usr/local/sbin/xb-snap")
		s.same(xvda, xvda)
		s.same(xvdb, xvdb)
		for _, l := range s.lastCopies("dom0b") {
			if l.Tracked != (l.Disk == "xvdb") {
				t.Errorf("%s: %+v", c.name, l)
			}
		}
		s.backup("dom0a").silent(t)
		s.ran(true, xvda, xvdb)
	}
}

// TestLongWrapperTrackedRefused demands that a base does not get a standby past what it is to be refused for.
func TestLongWrapperTrackedRefused(t *testing.T) {
	s := newSite(t)
	s.domu1(xvda)
	s.backup("dom0a").silent(t)
	s.scatter(xvda, 7)
	s.backup("dom0a").silent(t)
	s.must("dom0b", "cp /srv/a.img /srv/kept; printf x | dd of=/srv/a.img bs=1 seek=700000 conv=notrunc status=none")
	sums := s.sums("dom0b", xvda)
	s.scatter(xvda, 9)
	s.backup("dom0a").fails(t, 3, "### ERROR 80: DomU domu1, disk xvda: ")
	if s.sums("dom0b", xvda) != sums {
		t.Error("it was changed")
	}
	s.must("dom0b", "cp /srv/kept /srv/a.img")
	s.backup("dom0a").silent(t)
	s.ran(true, xvda)
	for _, consent := range []string{"", "xb-patch --discard-changes /srv/a.img"} {
		s.must("dom0b", "printf x | dd of=/srv/a.img bs=1 seek=700000 conv=notrunc status=none; "+consent)
		words := []string{"--force-diverged", "domu1"}
		if consent != "" {
			words = nil
		}
		s.backup("dom0a", words...).fails(t, 0, "has diverged and may be overwritten all the same")
		s.ran(false, xvda)
		s.backup("dom0a").silent(t)
		s.ran(true, xvda)
	}
}

// TestLongWrapperBaseRotten has the storage change a base. That is seen only by dom0b, where what is to be replaced is not what
// the base says: the disk is compared in full in the same run, and no base is in the way of the next one.
func TestLongWrapperBaseRotten(t *testing.T) {
	s := newSite(t)
	s.domu1(xvda, xvdb)
	s.backup("dom0a").silent(t)
	for _, disks := range [][]string{{xvda, xvdb}, {xvda}} {
		s.domain("dom0a", "domu1", 1, disks...)
		s.backup("dom0a").silent(t)
		s.touchUp(xvda, 30)
		base := s.must("dom0a", "xb-snap list | sed -n 's,\t/srv/a.img\t.*,,p'")
		s.rot("dom0a", strings.TrimSpace(base), 30)
		s.backup("dom0a").fails(t, 0, "#### dom0b:/srv/a.img: compared in full: xb-patch: /srv/a.img was changed since ")
		for _, disk := range disks {
			s.same(disk, disk)
		}
		s.touchUp(xvda, 31)
		s.backup("dom0a").silent(t)
		s.ran(true, xvda)
	}
}

// TestLongWrapperDiskLeft demands that no base stays of a disk that is not copied any more.
func TestLongWrapperDiskLeft(t *testing.T) {
	s := newSite(t)
	s.domu1(xvda, xvdb)
	leave := func(what string, do func(), undo func()) {
		t.Helper()
		s.backup("dom0a").silent(t)
		if kept := s.bases(); len(kept) != 2 {
			t.Errorf("bases before: %q", kept)
		}
		do()
		s.backup("dom0a").silent(t)
		s.backup("dom0a").silent(t)
		if kept := s.bases(); len(kept) != 1 || !strings.Contains(kept[0], "a.img") {
			t.Errorf("%s: bases: %q", what, kept)
		}
		undo()
	}
	leave("EXCLUDE", func() { s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, "EXCLUDE=xvdb") },
		func() { s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s) })
	leave("detached", func() { s.domain("dom0a", "domu1", 1, xvda) }, func() { s.domain("dom0a", "domu1", 1, xvda, xvdb) })
	leave("removed", func() { s.domain("dom0a", "domu1", 1, xvda); s.must("dom0a", "rm "+xvdb) }, func() {})

	// Of a disk that has another name the base is used, once.
	s.must("dom0a", "cd /run; sed -i s/xvda/xvdc/ domains/domu1; { echo '<node>'; cat domains/*; echo '</node>'; } >node.xml")
	s.must("dom0b", `uuid=$(xb-patch --state /srv/a.img | sed -n 's/.*"uuid": *"\([^"]*\)".*/\1/p'); xb-patch --adopt domu1/xvdc --uuid "$uuid" /srv/a.img`)
	s.scatter(xvda, 3)
	s.backup("dom0a").silent(t)
	s.same(xvda, xvda)
	for _, l := range s.lastCopies("dom0b") {
		if l.Disk == "xvdc" && !l.Tracked {
			t.Errorf("under another name: %+v", l)
		}
	}
	if kept := s.bases(); len(kept) != 1 {
		t.Errorf("bases after it: %q", kept)
	}
}

// TestLongWrapperLostAnswer loses the answer of dom0b when it has the new image: the next run finds out which base is right.
func TestLongWrapperLostAnswer(t *testing.T) {
	for name, disks := range map[string][]string{"--auto": {xvda}, "--commit": {xvda, xvdb}} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.domu1(disks...)
			s.backup("dom0a").silent(t)
			for _, script := range []string{
				`$real "$@"; until ! kill -9 $PPID; do sleep 0.1; done 2>/dev/null; exit`, // it has the new image
				`kill -9 $PPID; sleep 1; exit 1`,                                          // it has not
			} {
				for _, disk := range disks {
					s.scatter(disk, 8)
				}
				s.around(fmt.Sprintf(`if [[ " $* " = *" %s "* ]]; then %s; fi`, name, script))
				if r := s.backup("dom0a"); r.status != 3 {
					t.Errorf("status %d\n%s", r.status, r.err)
				}
				s.must("dom0b", "rm /usr/local/sbin/xb-patch")
				for _, disk := range disks {
					s.scatter(disk, 3)
				}
				s.backup("dom0a").silent(t)
				s.ran(true, disks...)
				if kept := s.bases(); len(kept) != len(disks) {
					t.Errorf("bases: %q", kept)
				}
			}
		})
	}
}

// TestLongWrapperTrackedKilled kills all of a run between the stream and the commit: the next run is right.
func TestLongWrapperTrackedKilled(t *testing.T) {
	s := newSite(t)
	s.domu1(xvda, xvdb)
	s.backup("dom0a").silent(t)
	s.scatter(xvda, 8)
	s.scatter(xvdb, 8)
	s.around(`if [[ $1 = --commit ]]; then touch /run/begun; sleep 1000; fi`)
	run := s.begin("dom0a", cron())
	eventually(s, "the commit", func() bool { return s.on("dom0b", "rm /run/begun").status == 0 })
	s.must("dom0a", "pkill -KILL -x xen-backup.sh; pkill -KILL -x ssh || :")
	run.end()
	s.must("dom0b", "rm /usr/local/sbin/xb-patch; pkill -x sleep")
	if kept := s.bases(); len(kept) != 4 {
		t.Errorf("bases before the next run: %q", kept)
	}
	s.scatter(xvda, 3)
	s.backup("dom0a").silent(t)
	s.ran(true, xvda, xvdb)
	if kept := s.bases(); len(kept) != 2 {
		t.Errorf("bases: %q", kept)
	}
}

// TestLongWrapperTwoPeers has two peers, of which one misses runs: each is tracked from what it has. When one leaves DOM0S its
// base goes, but not when it is dead, or not asked for.
func TestLongWrapperTwoPeers(t *testing.T) {
	s := newSite(t)
	s.bootThird()
	s.domu1(xvda)
	s.image("dom0a", xvdb, mib)
	s.domain("dom0a", "domu2", 1, xvdb)
	s.conf("dom0a", "domu1", "DOMU=domu1", `DOM0S="dom0a dom0b dom0c"`)
	s.conf("dom0a", "domu2", "DOMU=domu2", `DOM0S="dom0a dom0c"`)
	want := func(bases int) {
		t.Helper()
		if kept := s.bases(); len(kept) != bases {
			t.Errorf("%d bases, want %d: %q", len(kept), bases, kept)
		}
	}
	s.backup("dom0a").silent(t)
	want(2) // of which one is that of two peers
	s.scatter(xvda, 5)
	s.backup("dom0a", "--to", "dom0b", "domu1").silent(t)
	want(3)
	s.ran(true, xvda)
	s.scatter(xvda, 9)
	s.backup("dom0a").silent(t)
	want(2)
	for _, l := range append(s.lastCopies("dom0b"), s.lastCopies("dom0c")...) {
		if !l.Tracked {
			t.Errorf("%+v", l)
		}
	}
	if sum := s.sums("dom0c", xvda); sum != s.sums("dom0a", xvda) || sum != s.sums("dom0b", xvda) {
		t.Error("the standbys differ")
	}
	s.cut("dom0c")
	s.scatter(xvda, 2)
	s.backup("dom0a", "CONNECT_TIMEOUT=10").fails(t, 3, "remote Dom0 dom0c cannot be reached")
	want(3)
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s)
	s.backup("dom0a", "domu1").silent(t)
	want(2)
	s.conf("dom0a", "domu1", "DOMU=domu1", `DOM0S="dom0a dom0d"`)
	s.on("dom0a", cron("CONNECT_TIMEOUT=1", "domu1"))
	want(1)
}

// TestLongWrapperTrackSettings demands that TRACK is heeded, and that --dry-run says what a run will do.
func TestLongWrapperTrackSettings(t *testing.T) {
	s := newSite(t)
	s.domu1(xvda)
	says := func(how string) {
		t.Helper()
		if r := s.backup("dom0a", "--dry-run"); r.status != 0 || !strings.Contains(r.err, "\n#### dom0b:/srv/a.img: "+how+"\n") {
			t.Errorf("%q is not said: %s", how, r.err)
		}
	}
	says("full: it is the first copy")
	s.backup("dom0a").silent(t)
	says("tracked")
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, "TRACK=no")
	says("full: TRACK=no")
	s.backup("dom0a").silent(t)
	s.ran(false, xvda)
	if kept := s.bases(); len(kept) != 0 {
		t.Errorf("bases with TRACK=no: %q", kept)
	}
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, "TRACK=yes")
	says("full: no snapshot is kept here of the image that is there")
	s.backup("dom0a").silent(t)
	says("tracked")
	s.must("dom0a", "xb-snap remove "+s.bases()[0])
	says("full: no snapshot is kept here of the image that is there")
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, "TRACK=maybe")
	s.backup("dom0a").fails(t, 3, "### ERROR 78: ", "bad TRACK: maybe")
}

// TestLongWrapperTwoConfs has two conf files copy a DomU, each one of its disks, and one of them to another Dom0, too: neither
// forgets the bases of the other one, and what none of them copies any more is forgotten.
func TestLongWrapperTwoConfs(t *testing.T) {
	s := newSite(t)
	s.bootThird()
	s.domu1(xvda, xvdb)
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, "EXCLUDE=xvdb")
	s.conf("dom0a", "other", "DOMU=domu1", `DOM0S="dom0a dom0b dom0c"`, "EXCLUDE=xvda")
	run := func(tracked string) {
		t.Helper()
		s.scatter(xvda, 3)
		s.scatter(xvdb, 4)
		s.backup("dom0a").silent(t)
		var of []string
		for _, l := range append(s.lastCopies("dom0b"), s.lastCopies("dom0c")...) {
			of = append(of, fmt.Sprint(l.Disk, " on ", l.Peer, ": ", l.Tracked))
		}
		if got := strings.Join(of, ", "); got != tracked {
			t.Errorf("tracked are %s, want %s", got, tracked)
		}
	}
	run("xvda on dom0b: false, xvdb on dom0b: false, xvdb on dom0c: false")
	run("xvda on dom0b: true, xvdb on dom0b: true, xvdb on dom0c: true")
	run("xvda on dom0b: true, xvdb on dom0b: true, xvdb on dom0c: true")
	s.same(xvda, xvda)
	s.same(xvdb, xvdb)
	s.conf("dom0a", "other", "DOMU=domu1", `DOM0S="dom0a dom0b dom0c"`, `EXCLUDE="xvda xvdb"`)
	s.backup("dom0a").fails(t, 3, "EXCLUDE names them all")
	s.must("dom0a", "rm /etc/xen-backup.d/other.conf")
	s.backup("dom0a").silent(t)
	s.backup("dom0a").silent(t)
	if kept := s.bases(); len(kept) != 1 || !strings.Contains(kept[0], "a.img") {
		t.Errorf("bases: %q", kept)
	}
}

// big has domu1 have a disk of which more changes than any pipe or connection takes at once.
func (s *site) big() {
	s.Helper()
	s.domu1(xvda)
	s.image("dom0a", xvda, 16*mib)
	s.backup("dom0a").silent(s.T)
}

func (s *site) changeMuch() {
	s.Helper()
	s.must("dom0a", "head -c 6M /dev/urandom | dd of=/srv/a.img bs=1M seek=$((RANDOM % 10)) conv=notrunc status=none")
}

// TestLongWrapperBaseGivesWay has the guard take the base away while it is read: the disk is compared in full in the same run,
// and the log says why.
func TestLongWrapperBaseGivesWay(t *testing.T) {
	s := newSite(t)
	s.big()
	s.changeMuch()
	base := s.bases()[0]
	s.around(`if [[ " $* " = *" --auto "* ]]; then until [[ -e /run/go ]]; do sleep 0.1; done; fi`)
	run := s.begin("dom0a", cron())
	eventually(s, "the base is read", func() bool {
		return s.on("dom0a", "for p in $(pgrep -x xb-delta); do ls -l /proc/$p/fd; done | grep -qF "+base).status == 0
	})
	s.must("dom0a", "xb-snap guard --bases --once --pool-limit 1 2>/run/guard")
	says(t, s.must("dom0a", "cat /run/guard"), "base "+base+" removed: ", "% full")
	s.must("dom0b", "touch /run/go")
	r := run.end()
	r.fails(t, 0, "#### dom0b:/srv/a.img: compared in full: xb-delta: ", base, "given up")
	s.ran(false, xvda)
	s.must("dom0b", "rm /usr/local/sbin/xb-patch")
	s.changeMuch()
	s.backup("dom0a").silent(t)
	s.ran(true, xvda)
	if kept := s.bases(); len(kept) != 1 {
		t.Errorf("bases: %q", kept)
	}
}

// TestLongWrapperTrackedBroken breaks tracked copies, or slows them down: no base is lost by that, none stays behind, and the
// next run is tracked and right.
func TestLongWrapperTrackedBroken(t *testing.T) {
	s := newSite(t)
	s.big()
	for _, c := range testkit.Some(t, 2, []struct {
		name, script string
		settings     []string
		status, told int // of the run, and of --status after it
	}{
		{"TERM", `touch /run/begun; until [[ -e /run/go ]]; do sleep 0.1; done; exit 1`, nil, 143, 0},
		{"a cut", `head -c 100000 >/dev/null; kill -9 $PPID; sleep 1; exit 1`, nil, 3, 2},
		{"BWLIMIT", ``, []string{"BWLIMIT=3M"}, 0, 0},
		{"a stall", `kill -STOP $$`, []string{"STALL=14"}, 3, 2},
	}...) {
		t.Log(c.name)
		s.changeMuch()
		if c.script != "" {
			s.around(`if [[ " $* " = *" --auto "* ]]; then ` + c.script + `; fi`)
		}
		was := s.bases()
		s.conf("dom0a", "domu1", append([]string{"DOMU=domu1", twoDom0s}, c.settings...)...)
		run := s.begin("dom0a", cron())
		if c.name == "TERM" {
			eventually(s, "the copy", func() bool { return s.on("dom0b", "rm /run/begun").status == 0 })
			s.must("dom0a", "read -r pid _ </run/xen-backup.lock; kill -TERM $pid")
			s.must("dom0b", "touch /run/go")
		}
		if r := run.end(); r.status != c.status {
			t.Errorf("%s: status %d\n%s", c.name, r.status, r.err)
		}
		s.nothingLeft("dom0a")
		if kept := s.bases(); c.status != 0 && !slices.Equal(kept, was) {
			t.Errorf("%s: bases are %q, and were %q", c.name, kept, was)
		}
		s.status("dom0a", c.told)
		s.must("dom0b", "rm -f /usr/local/sbin/xb-patch; pkill -KILL -x xb-patch || :")
		s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s)
		s.backup("dom0a").silent(t)
		s.ran(true, xvda)
		if kept := s.bases(); len(kept) != 1 {
			t.Errorf("%s: bases: %q", c.name, kept)
		}
		s.status("dom0a", 0)
	}
}

// TestLongFinalTracked has the last copy before a move read only what has changed, of a DomU that is shut off and so is asked
// nothing. Where somebody else writes to a disk meanwhile, be it after that was read, it was not the last one.
func TestLongFinalTracked(t *testing.T) {
	s := newSite(t)
	s.domu1(xvda, xvdb)
	s.backup("dom0a").silent(t)
	s.domain("dom0a", "domu1", 5, xvda, xvdb)
	final := func(words ...string) result {
		s.scatter(xvda, 7)
		s.scatter(xvdb, 7)
		return s.backup("dom0a", append(words, "PRE_SNAPSHOT=false", "PAUSE=freeze", "--final", "domu1")...)
	}
	for range 2 {
		final().silent(t)
		if read := s.ran(true, xvda, xvdb); read != 2*2*7*4096 {
			t.Errorf("%d bytes were read", read)
		}
		if r := s.on("dom0a", cron("--status")); r.status != 0 || !strings.Contains(r.out, "nothing was written to it since") {
			t.Errorf("--status: %d\n%s%s", r.status, r.out, r.err)
		}
	}
	set := s.usable("dom0b", xvda, xvdb)
	changed := func(words ...string) result {
		r := final(words...)
		r.fails(t, 3, "### ERROR 75: DomU domu1, disk xvda: /srv/a.img was changed while its last copy was made")
		return r
	}
	s.write("dom0a/sbin/xb-delta", "#!/bin/bash\n/usr/local/bin/xb-delta \"$@\" || exit\n"+
		"[[ $* != *b.img* ]] || printf x | dd of=/srv/a.img conv=notrunc status=none\n", 0o755)
	for _, words := range []string{"JOBS=1", "TRACK=no"} { // one disk after the other
		s.kept(set, changed(words), "failed: xvda; ", xvda, xvdb)
	}
	s.must("dom0a", "rm /usr/local/sbin/xb-delta")
	for _, late := range []string{"--commit", "--store"} { // it is new by then, and not the last
		s.write("dom0a/sbin/ssh", "#!/bin/bash\n[[ \" $* \" != *' "+late+" '* ]] || "+
			"printf x | dd of=/srv/a.img conv=notrunc status=none\nexec /usr/bin/ssh \"$@\"\n", 0o755)
		changed().fails(t, 3, "the standby is new, but has nothing of that")
	}
	s.must("dom0a", "rm /usr/local/sbin/ssh; : >/run/syslog")
	final().silent(t)
	s.ran(true, xvda, xvdb)
	final("TRACK=no").silent(t)
	s.same(xvda, xvda)
	s.same(xvdb, xvdb)
	if log := s.log("dom0a"); strings.Count(log, "take snapshot") != 2 {
		t.Errorf("one of two copies needs snapshots:\n%s", log)
	}
}

// TestLongFinalOfOneDisk has somebody write to the only disk after it was read: it does not become the new one.
func TestLongFinalOfOneDisk(t *testing.T) {
	s := newSite(t)
	s.domu1(xvda)
	s.backup("dom0a").silent(t)
	s.domain("dom0a", "domu1", 5, xvda)
	s.write("dom0a/sbin/xb-delta", "#!/bin/bash\n/usr/local/bin/xb-delta \"$@\" && "+
		"printf x | dd of=/srv/a.img conv=notrunc status=none\n", 0o755)
	before := s.sums("dom0b", xvda)
	for _, words := range []string{"TRACK=auto", "TRACK=no"} {
		s.scatter(xvda, 7)
		s.backup("dom0a", words, "--final", "domu1").fails(t, 3, "/srv/a.img was changed while its last copy was made",
			"the standby stays what it was")
		if after := s.sums("dom0b", xvda); after != before {
			t.Errorf("with %s the standby has become another one", words)
		}
	}
	s.must("dom0a", "rm /usr/local/sbin/xb-delta")

	s.around(`if [[ " $* " = *" --commit "* ]]; then touch /run/begun; sleep 1000; fi`)
	run := s.begin("dom0a", cron("--final", "domu1"))
	eventually(s, "the commit", func() bool { return s.on("dom0b", "rm /run/begun").status == 0 })
	s.must("dom0a", "pkill -KILL -x xen-backup.sh; pkill -KILL -x ssh || :")
	run.end()
	s.must("dom0b", "rm /usr/local/sbin/xb-patch; pkill -x sleep")
	if after := s.sums("dom0b", xvda); after != before {
		t.Error("a run that was killed before its commit has made the standby another one")
	}
	s.backup("dom0a", "--final", "domu1").silent(t)
	s.same(xvda, xvda)
	s.nothingHeld("dom0b")
}

// TestLongFinalWithoutSnapshots has a base of one disk, and another disk of which no snapshot can be taken: the last copy reads
// both as they are.
func TestLongFinalWithoutSnapshots(t *testing.T) {
	s := newSite(t)
	s.domu1(xvda)
	s.backup("dom0a").silent(t)
	s.must("dom0a", "truncate -s 1M /srv/l")
	loop := strings.TrimSpace(s.must("dom0a", "losetup -f --show /srv/l"))
	t.Cleanup(func() { s.here("losetup -d " + loop) })
	s.domain("dom0a", "domu1", 5, xvda, loop)
	s.conf("dom0a", "domu1", "DOMU=domu1", twoDom0s, fmt.Sprintf("MAP=dom0b:%s=/srv/l.img", loop))
	s.scatter(xvda, 7)
	s.backup("dom0a", "--dry-run", "--final", "domu1").fails(t, 0, "no snapshots: "+loop+" is not a logical volume")
	s.backup("dom0a", "--final", "domu1").silent(t)
	s.same(xvda, xvda)
	s.same(loop, "/srv/l.img")
	if log := s.log("dom0a"); !strings.Contains(log, "no snapshots: "+loop) {
		t.Errorf("%s", log)
	}
}
