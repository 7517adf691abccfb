package e2e

import (
	"fmt"
	"strings"
	"testing"

	"xen-backup/internal/testkit"
)

// forgetful has the storage of dom0a leave the first extent out of each list, as long as there is /run/forgetful.
func (s *site) forgetful() {
	s.Helper()
	s.write("dom0a/sbin/xb-snap", `#!/bin/bash
[[ $1 = changes && -e /run/forgetful ]] || exec /usr/local/bin/xb-snap "$@"
/usr/local/bin/xb-snap "$@" | awk '/^end/ { print $1, $2 - (gone > 0), $3 - gone; next } NR == 1 { gone = $2; next } { print }'
exit "${PIPESTATUS[0]}"
`, 0o755)
	s.must("dom0a", "touch /run/forgetful")
}

// touchUp changes some single blocks of a disk on dom0a.
func (s *site) touchUp(file string, blocks ...int) {
	s.Helper()
	for _, block := range blocks {
		s.must("dom0a", fmt.Sprintf("head -c 50 /dev/urandom | dd of=%s bs=4096 seek=%d conv=notrunc,fsync status=none", file, block))
	}
}

// verified copies domu1, with a comparison in full that is due, or without one.
func (s *site) verified(every string) result {
	s.Helper()
	return s.on("dom0a", conducted("domu1", "dom0a dom0b", "--track yes --verify-every "+every, ""))
}

// digests demands that dom0b remembers of a standby what a reading of all of it finds.
func (s *site) digests(files ...string) {
	s.Helper()
	for _, file := range files {
		found := s.must("dom0b", "xb-sig --summary /run/found "+file+" >/dev/null; cat /run/found")
		if digest := s.state("dom0b", file).Digest; digest == "" || !strings.Contains(found, `"digest":"`+digest+`"`) {
			s.Errorf("dom0b remembers of %s %q, and it is %s", file, digest, found)
		}
	}
}

// TestLongVerifyMissed has the storage forget what has changed. The run does not notice; the next comparison in full does,
// and has the standby be what it should be.
func TestLongVerifyMissed(t *testing.T) {
	for _, files := range testkit.Some(t, 1, []string{xvda, xvdb}, []string{xvda}) {
		t.Run(fmt.Sprint(len(files)), func(t *testing.T) {
			s := newSite(t)
			s.domu1(files...)
			s.verified("1s").well(t) // a standby that is new is not due
			s.forgetful()
			s.touchUp(xvda, 10, 20, 200)
			s.verified("never").well(t)
			s.digests(files...)
			if s.sums("dom0a", xvda) == s.sums("dom0b", xvda) {
				t.Fatal("nothing was missed")
			}
			s.must("dom0a", "rm /run/forgetful; sleep 1.1") // a span has ended
			s.touchUp(xvda, 30)
			r := s.verified("1s")
			r.fails(t, 3, "err ### ERROR 1: DomU domu1, disk xvda: dom0b:/srv/a.img was compared with its source: they differ: "+
				"blocks 256 changed 1 bytes 4096 at 40960; all of it is copied now\n",
				"warning #### dom0b:/srv/a.img: mended, and verified.")
			if strings.Count(r.err, "ERROR") != 1 {
				t.Errorf("more than one error:\n%s", r.err)
			}
			for _, file := range files {
				s.same(file, file)
			}
			s.digests(files...)
			if len(files) > 1 && s.usable("dom0b", files...) == "" {
				t.Error("its disks are of no one set any more")
			}
			s.nothingHeld("dom0b")
			says(t, s.status("dom0a", 1), "xvda on dom0b: what had changed was missed by runs", "blocks 256 changed 1 bytes 4096 at 40960")
			// It is compared until nothing is found, and goes on being told.
			r = s.verified("1000d")
			r.well(t)
			r.fails(t, 0, "info #### dom0b:/srv/a.img: verified, blocks 256 changed 0 bytes 0\n")
			if r = s.verified("1000d"); strings.Contains(r.err, "verified") {
				t.Errorf("it is compared again:\n%s", r.err)
			}
			r.well(t)
			says(t, s.status("dom0a", 1), "xvda on dom0b: what had changed was missed by runs")
			s.must("dom0a", "xb-snap prune --bases")
			s.nothingLeft("dom0a")
		})
	}
}

// TestLongVerifyNotMended has no room for what mends a standby, or the run killed meanwhile. The next one compares in full,
// whether that is due or not: nothing passes for good of which it is known that it is not.
func TestLongVerifyNotMended(t *testing.T) {
	for _, files := range testkit.Some(t, 1, []string{xvda, xvdb}, []string{xvda}) {
		t.Run(fmt.Sprint(len(files)), func(t *testing.T) {
			s := newSite(t)
			s.domu1(files...)
			s.backup("dom0a").silent(t)
			for _, end := range []string{`echo "xb-patch: no room" >&2; exit 73`, `touch /run/begun; sleep 1000`} {
				s.forgetful()
				s.touchUp(xvda, 10, 20, 200)
				s.backup("dom0a", "VERIFY_EVERY=0").silent(t) // of what was found wrong once every run is compared else
				if s.sums("dom0a", xvda) == s.sums("dom0b", xvda) {
					t.Fatal("nothing was missed")
				}
				s.must("dom0a", "rm /run/forgetful")
				s.around(`if [[ " $* " = *" --auto "*a.img* ]]; then if [[ -e /run/first ]]; then ` + end + `; fi; touch /run/first; fi`)
				run := s.begin("dom0a", cron("--verify"))
				if strings.Contains(end, "begun") {
					eventually(s, "it is being mended", func() bool { return s.on("dom0b", "rm /run/begun").status == 0 })
					s.must("dom0a", "pkill -KILL -x xen-backup.sh; pkill -KILL -x ssh || :")
				}
				if r := run.end(); r.status == 0 || !strings.Contains(s.log("dom0a"), "### ERROR 1: ") {
					t.Errorf("status %d\n%s", r.status, r.err)
				}
				s.must("dom0b", "rm -f /usr/local/sbin/xb-patch /run/first; pkill -x sleep || :")
				status := s.on("dom0a", cron("--status"))
				if status.status != 2 {
					t.Errorf("--status: %d", status.status)
				}
				says(t, status.out, "CRITICAL  domu1: xvda on dom0b: it was compared in full at ", " and is not what it should be: "+
					"blocks 256 changed 1 bytes 4096 at 40960", "it is not mended yet")
				s.touchUp(xvda, 50)
				s.backup("dom0a", "VERIFY_EVERY=0").fails(t, 0, "#### dom0b:/srv/a.img: what runs had missed is mended")
				says(t, s.status("dom0a", 1), "xvda on dom0b: what had changed was missed by runs", "at 40960")
				for _, file := range files {
					s.same(file, file)
				}
				s.digests(files...)
				s.must("dom0a", ": >/run/syslog")
			}
		})
	}
}

// TestLongVerifyOtherPeer has runs miss the same for two peers, of which one is compared: the other one is not left as it is,
// and is not trusted until all of it was read.
func TestLongVerifyOtherPeer(t *testing.T) {
	s := newSite(t)
	s.bootThird()
	s.domu1(xvda)
	s.conf("dom0a", "domu1", "DOMU=domu1", `DOM0S="dom0a dom0b dom0c"`)
	s.backup("dom0a").silent(t)
	s.forgetful()
	s.touchUp(xvda, 10, 20, 200)
	s.backup("dom0a").silent(t)
	s.must("dom0a", "rm /run/forgetful")
	s.backup("dom0a", "--to", "dom0b", "--verify", "domu1").fails(t, 3, "### ERROR 1: DomU domu1, disk xvda: dom0b:/srv/a.img was compared")
	missed := func(name string) bool { return s.sums("dom0a", xvda) != s.sums(name, xvda) }
	if missed("dom0b") || !missed("dom0c") {
		t.Error("it is not what it was to be")
	}
	status := s.on("dom0a", cron("--status"))
	says(t, status.out, "xvda on dom0c: it may lack what runs had missed on dom0b")
	dry := s.backup("dom0a", "--dry-run")
	says(t, dry.err, "#### dom0c:/srv/a.img: full: it may lack what runs had missed on dom0b")

	s.touchUp(xvda, 50)
	s.must("dom0a", ": >/run/syslog")
	s.backup("dom0a", "VERIFY_EVERY=0").silent(t)
	if missed("dom0b") || missed("dom0c") {
		t.Error("it was not mended")
	}
	says(t, s.log("dom0a"), "#### dom0c:/srv/a.img: compared in full: it may lack what runs had missed on dom0b")
	if status = s.on("dom0a", cron("--status")); strings.Contains(status.out, "may lack") {
		t.Errorf("the status goes on:\n%s", status.out)
	}
	s.touchUp(xvda, 60)
	s.backup("dom0a", "VERIFY_EVERY=0").silent(t)
	for _, l := range append(s.lastCopies("dom0b"), s.lastCopies("dom0c")...) {
		if !l.Tracked {
			t.Errorf("it is not trusted again: %+v", l)
		}
	}
	if missed("dom0b") || missed("dom0c") {
		t.Error("they differ")
	}
}

// TestLongVerifyRotten has a block of the standby change below its file system, so that nothing tells that it was written to.
func TestLongVerifyRotten(t *testing.T) {
	s := newSite(t)
	s.domu1(xvda)
	s.verified("never").well(t)
	s.rot("dom0b", xvda, 77)
	was := s.sums("dom0b", xvda)
	s.touchUp(xvda, 30)
	s.verified("never").well(t)
	if s.sums("dom0b", xvda) == was || s.sums("dom0b", xvda) == s.sums("dom0a", xvda) {
		t.Fatal("nothing was copied, or nothing has rotted")
	}
	was = s.sums("dom0b", xvda)
	s.must("dom0a", "sleep 1.1")
	s.verified("1s").fails(t, 3, "err ### ERROR 1: ", "they differ: blocks 256 changed 1 bytes 4096 at 315392; ",
		"err ### ERROR 80: DomU domu1, disk xvda: /srv/a.img was not copied to dom0b:")
	if s.sums("dom0b", xvda) != was {
		t.Error("it was overwritten")
	}
	says(t, s.status("dom0a", 2), "has diverged")
}

// rot changes a block of a file on a Dom0 below its file system.
func (s *site) rot(name, file string, block int) {
	s.Helper()
	physical := strings.TrimSpace(s.must(name, fmt.Sprintf(`sync -f %[1]s
filefrag -v -b4096 %[1]s | tr -d . | awk -F '[: ]+' '$2 ~ /^[0-9]+$/ && $3 <= %[2]d && %[2]d <= $4 { print $5 + %[2]d - $3 }'`, file, block)))
	s.here(fmt.Sprintf("printf rot | dd of=%s/xfs bs=4096 seek=%s conv=notrunc,fsync status=none", name, physical))
	s.must(name, "dd if="+file+" iflag=nocache count=0 status=none")
}

// TestLongVerifyStale has a base be another snapshot than it was, and a target be written to: the first is compared in full,
// and the second is refused.
func TestLongVerifyStale(t *testing.T) {
	s := newSite(t)
	s.domu1(xvda)
	s.verified("never").well(t)
	s.touchUp(xvda, 10)
	// A copy of the disk of today, with the name of the base.
	s.must("dom0a", `base=$(xb-snap base --peer dom0b /srv/a.img | grep -o '"snapshot":"[^"]*"' | cut -d '"' -f 4)
cp --reflink=always /srv/a.img /srv/new; chmod 400 /srv/new; mv -f /srv/new "$base"`)
	r := s.verified("never")
	r.fails(t, 0, "compared in full")
	s.same(xvda, xvda)
	s.digests(xvda)

	s.touchUp(xvda, 20)
	s.must("dom0b", "printf x | dd of=/srv/a.img bs=4096 seek=99 conv=notrunc,fsync status=none")
	was := s.sums("dom0b", xvda)
	s.verified("1s").fails(t, 3, "err ### ERROR 80: DomU domu1, disk xvda: /srv/a.img was not copied to dom0b:/srv/a.img: ")
	if s.sums("dom0b", xvda) != was {
		t.Error("a target that was written to was overwritten")
	}
	s.must("dom0a", "xb-snap prune --bases")
	s.nothingLeft("dom0a")
}
