package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/testkit"
)

// point is a line of xb-snap list --points.
type point struct{ standby, time, set, image, path string }

func (h *host) points(standbys string) (all []point) {
	h.Helper()
	for line := range strings.Lines(h.must("xb-snap list --points " + standbys)) {
		words := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(words) != 5 {
			h.Fatalf("a line of list --points is %q", line)
		}
		all = append(all, point{words[0], words[1], words[2], words[3], words[4]})
	}
	return all
}

// wantPoints demands that a standby has points of just these times, the oldest first.
func (h *host) wantPoints(standby string, times ...string) []point {
	h.Helper()
	all := h.points(standby)
	var got []string
	for _, p := range all {
		got = append(got, p.time)
	}
	if fmt.Sprint(got) != fmt.Sprint(times) {
		h.Fatalf("the points of %s are of %v, want %v", standby, got, times)
	}
	return all
}

// hour is a time that a source may tell of.
func hour(n int) string { return fmt.Sprintf("2026-11-26T%02d:00:00Z", n) }

// copies has the standby become the next image, which is kept as imageN, too.
func (h *host) copies(n int, target, options string) result {
	h.Helper()
	h.change("source", n, uint64(n+2))
	h.must(fmt.Sprintf("cp source image%d", n))
	return h.auto("source", target, fmt.Sprintf("--taken %s %s", hour(n), options))
}

// reflinks runs a test on each file system with reflinks.
func reflinks(t *testing.T, test func(t *testing.T, h *host, dir string)) {
	for _, kind := range testkit.Some(t, 1, "xfs", "btrfs") {
		t.Run(kind, func(t *testing.T) {
			h := newHost(t)
			h.fileSystem(kind, kind)
			h.image("source", 4*mib, 1)
			test(t, h, kind)
		})
	}
}

func TestPoints(t *testing.T) {
	reflinks(t, func(t *testing.T, h *host, dir string) {
		target := dir + "/target"
		h.copies(1, target, "--keep 2").silent(t)
		h.wantPoints("")
		if got := h.must("xb-patch --state " + target); !strings.Contains(got, `"taken":"`+hour(1)+`"`) {
			t.Errorf("the state does not say when the image was taken: %s", got)
		}
		h.copies(2, target, "--keep 2").silent(t)
		h.copies(3, target, "--keep 2").silent(t)
		for i, p := range h.wantPoints(target, hour(1), hour(2)) {
			if h.sameBytes(fmt.Sprintf("image%d", i+1), p.path); p.standby != h.path(target) || p.set != "-" {
				t.Errorf("a point is %+v", p)
			}
			want := strings.TrimSpace(h.must(fmt.Sprintf("xb-sig image%d | xb-delta --check --summary s%[1]d image%[1]d >/dev/null; "+
				"jq -r '\"\\(.hash):\\(.block_size):\\(.image_size):\\(.digest)\"' s%[1]d", i+1)))
			if p.image != want {
				t.Errorf("point %d is said to be of %s, and is of %s", i+1, p.image, want)
			}
		}
		// Without a change nothing is overwritten, and no point is needed.
		h.auto("source", target, "--keep 2 --taken "+hour(4)).silent(t)
		h.wantPoints(target, hour(1), hour(2))
		// One that is being read stays until it is not, and one that was given up does not.
		reader, err := os.Open(h.points(target)[0].path)
		if err != nil {
			t.Fatal(err)
		}
		h.copies(5, target, "--keep 2").silent(t)
		h.wantPoints(target, hour(1), hour(2), hour(4))
		given := h.points(target)[1].path
		h.must("truncate -s 0 " + given)
		reader.Close()
		h.copies(6, target, "--keep 3").silent(t)
		h.wantPoints(target, hour(1), hour(4), hour(5))
		h.must("[ ! -e " + given + " ]")
		h.must("xb-snap remove " + h.points(target)[0].path)

		// What somebody has written to since is no image that its source took.
		h.change(target, 3, 99)
		h.must("xb-patch --discard-changes --peer dom0a --disk domu1/xvda " + target)
		h.copies(7, target, "--keep 3").fails(t, 0, "has diverged")
		h.wantPoints(target, hour(4), hour(5))

		// Nobody else takes them for his.
		if got := h.must("xb-snap prune; xb-snap prune --bases --peers ''; : >plan; xb-snap prune --plan plan"); got != "" {
			t.Errorf("pruned: %s", got)
		}
		all := h.points(target)
		h.must("xb-snap remove --unless-kept " + all[0].path)
		h.must("xb-snap guard --bases --once --pool-limit 99")
		h.must("xb-sig image1 | xb-delta --summary s1 image2 >/dev/null")
		h.sh("xb-snap keep --for dom0b --disk domu1/xvda --summary s1 --taken "+hour(1)+" "+all[0].path).fails(t, 64, "is a point in time")
		h.pipe("xb-sig "+all[0].path, "xb-delta source", "xb-patch --auto --peer dom0a --disk domu1/xvda "+all[0].path).
			fails(t, 78, "made by xb-snap", "point in time")
		h.wantPoints(target, hour(4), hour(5))

		// What is remembered of the standby is lost: they are not. But where nothing is left, only the files tell.
		h.must("rm " + h.state + "/*.json")
		h.wantPoints("", hour(4), hour(5))
		all = h.points(target)
		h.must("mv " + h.state + "/snapshots away")
		h.wantPoints("")
		lost := h.sh("xb-snap list --points " + target)
		if lost.fails(t, 0, all[0].path, all[1].path, "RUNBOOK in xen-backup(8)"); lost.out != "" || strings.Count(lost.err, "\n") != 2 {
			t.Errorf("without records: %+v", lost)
		}
		h.sh("xb-snap list --points --at "+hour(9)+" "+target).fails(t, 69, all[0].path, "no point of")
		h.sh("xb-snap remove "+all[0].path).fails(t, 79)
		h.must("rm -rf " + h.state + "/snapshots; mv away " + h.state + "/snapshots")
		h.sh("xb-snap list --points " + target).silent(t)
		h.must("xb-snap remove " + all[0].path)
		h.wantPoints("", hour(5))
	})
}

// TestLongPointsOfSets has the points of a set be made together, in its commit, or not at all.
func TestLongPointsOfSets(t *testing.T) {
	reflinks(t, func(t *testing.T, h *host, dir string) {
		h.must("cp source other")
		disks := []string{"source", "other"}
		set := func(n int) string { return strings.Repeat(string(rune('a'+n)), 26) }
		holds := func(n int) {
			t.Helper()
			for i, disk := range disks {
				h.change(disk, n, uint64(n+2))
				h.must(fmt.Sprintf("cp %s %[1]s%d", disk, n))
				target := fmt.Sprintf("%s/d%d", dir, i)
				r := h.pipe("xb-sig --missing-ok "+target, "xb-delta "+disk, fmt.Sprintf("xb-patch --auto --peer dom0a --disk domu1/d%d "+
					"--hold %s --taken %s --keep 3 %s", i, set(n), hour(n), target))
				if r.fails(t, 0); n < 8 {
					r.silent(t)
				}
			}
		}
		commits := func(n int) result {
			return h.sh(fmt.Sprintf("xb-patch --commit %s --peer dom0a %s/d0 %[2]s/d1", set(n), dir))
		}
		for n := 1; n <= 3; n++ {
			if holds(n); n > 1 && len(h.points("")) != 2*(n-2) {
				t.Fatalf("points were made before the commit: %v", h.points(""))
			}
			commits(n).silent(t)
		}
		for i, disk := range disks {
			for n, p := range h.wantPoints(fmt.Sprintf("%s/d%d", dir, i), hour(1), hour(2)) {
				if h.sameBytes(fmt.Sprintf("%s%d", disk, n+1), p.path); p.set != set(n+1) {
					t.Errorf("its set is %s, want %s", p.set, set(n+1))
				}
			}
		}
		// One disk alone is another moment: no points then, which is said once.
		h.copies(4, dir+"/d1", "--keep 3 --force-diverged")
		h.sh("true")
		h.pipe("xb-sig "+dir+"/d1", "xb-delta other", "xb-patch --auto --peer dom0a --disk domu1/d1 --keep 3 --taken "+hour(5)+" "+dir+"/d1").
			silent(t)
		holds(6)
		commits(6).fails(t, 0, "no point in time was made: the disks are not of one moment")
		h.wantPoints(dir+"/d0", hour(1), hour(2))
		holds(7)
		commits(7).silent(t)
		h.wantPoints(dir+"/d0", hour(1), hour(2), hour(6))
		h.wantPoints(dir+"/d1", hour(1), hour(2), hour(6))

		// Nor are there any of those that are whole where another one is not.
		h.change(dir+"/d1", 3, 99)
		h.must("xb-patch --discard-changes --peer dom0a --disk domu1/d1 " + dir + "/d1")
		holds(8)
		commits(8).fails(t, 0, "no point in time was made: not all disks hold a whole image")
		h.wantPoints(dir+"/d0", hour(1), hour(2), hour(6))
		h.wantPoints(dir+"/d1", hour(1), hour(2), hour(6))

		// Nor where the DomU has lost a disk: with that it was one machine.
		h.pipe("xb-sig "+dir+"/d0", "xb-delta other", fmt.Sprintf("xb-patch --auto --peer dom0a --disk domu1/d0 --hold %s --taken %s "+
			"--keep 3 %s/d0", set(9), hour(9), dir)).silent(t)
		h.sh("xb-patch --commit "+set(9)+" --peer dom0a "+dir+"/d0").fails(t, 0, "no point in time was made: the disks are not of one moment")
		h.wantPoints(dir+"/d0", hour(1), hour(2), hour(6))
	})
}

// TestNoPoints has what cannot have points be copied all the same.
func TestNoPoints(t *testing.T) {
	h := newHost(t)
	h.fileSystem("ext4", "ext4")
	h.image("source", 4*mib, 1)
	h.copies(1, "ext4/target", "--keep 2").silent(t)
	h.copies(2, "ext4/target", "--keep 2").fails(t, 0, "no point in time was made", "can't share blocks")
	h.copies(3, "ext4/target", "--keep 2").silent(t) // that is known
	h.sameBytes("source", "ext4/target")
	h.wantPoints("")
	h.must("[ -z \"$(find . -name '*.xb-snap-*')\" ]")
	h.copies(4, "ext4/target", "--keep no").silent(t)
	h.copies(5, "ext4/target", "--keep often").fails(t, 64, "does not say what to keep")
}

// TestLongPointsTakeRoom has a copy for which there is no room beside a point be refused before anything is written.
func TestLongPointsTakeRoom(t *testing.T) {
	reflinks(t, func(t *testing.T, h *host, dir string) {
		target := dir + "/target"
		h.image("source", 64*mib, 2)
		h.auto("source", target, "--keep 2 --taken "+hour(1)).silent(t)
		h.must("sync -f " + dir)
		h.leave(dir, 40)
		h.must("cp source before")
		h.image("source", 64*mib, 3)
		h.auto("source", target, "--keep 2 --spool . --taken "+hour(2)).fails(t, 73, "no room for the image")
		h.sameBytes("before", target)
		h.wantPoints("")
		h.wantPhase(target, "clean")
		if dir == "xfs" { // without a point nothing new is taken there
			h.auto("source", target, "--keep no --spool . --taken "+hour(2)).silent(t)
			h.sameBytes("source", target)
		}
	})
}

// TestLongPointsGiveWay has the guard of bases look after points: where it is too full, the oldest go, with all of their set.
func TestLongPointsGiveWay(t *testing.T) {
	reflinks(t, func(t *testing.T, h *host, dir string) {
		targets := []string{dir + "/d0", dir + "/d1"}
		for n := 1; n <= 4; n++ {
			set := strings.Repeat(string(rune('a'+n)), 26)
			for i, target := range targets {
				h.image("source", 40*mib, uint64(2*n+i))
				h.pipe("xb-sig --missing-ok "+target, "xb-delta source", fmt.Sprintf("xb-patch --auto --peer dom0a --disk domu1/d%d "+
					"--hold %s --taken %s --keep 9 %s", i, set, hour(n), target)).silent(t)
			}
			h.sh("xb-patch --commit " + set + " --peer dom0a " + strings.Join(targets, " ")).silent(t)
		}
		want := func(times ...string) {
			t.Helper()
			for _, target := range targets {
				h.wantPoints(target, times...)
			}
		}
		want(hour(1), hour(2), hour(3))
		h.must("sync -f " + dir)
		room, err := blockdev.FileRoom(h.path(targets[0]))
		if err != nil {
			t.Fatal(err)
		}
		full, _ := room.Use()
		limit := int(full) - 2 // one of a disk is 4 %
		r := h.sh(fmt.Sprintf("xb-snap guard --bases --once --pool-limit %d", limit))
		r.fails(t, 0, "point "+hour(1), "removed: the file system of", "% full")
		want(hour(2), hour(3))
		h.must(fmt.Sprintf("xb-snap guard --bases --once --pool-limit %d", limit))
		want(hour(2), hour(3))

		// One that is being read stays.
		reader, err := os.Open(h.points(targets[1])[0].path)
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		h.must("xb-snap guard --bases --once --pool-limit 1")
		h.wantPoints(targets[0])
		h.wantPoints(targets[1], hour(2))
	})
}

// TestLongDamagedPoint has the record of a point be damaged: that is said once, is no reason to wait, and keeps nobody from
// what other standbys have. Who asks for just this standby hears that it may be what he wants.
func TestLongDamagedPoint(t *testing.T) {
	h := newHost(t)
	h.fileSystem("xfs", "xfs")
	h.image("source", mib, 1)
	for n := 1; n <= 3; n++ {
		h.copies(n, "xfs/sound", "--keep 9").silent(t)
		h.auto("source", "xfs/other", "--disk domu1/xvdb --keep 9 --taken "+hour(n)).silent(t)
	}
	sound, first := h.points("xfs/sound"), h.points("xfs/other")[0].path
	record := strings.TrimSpace(h.must("grep -lF " + first + " " + h.state + "/snapshots/*"))
	h.must("mkfifo fifo; cp " + record + " record")
	for n, damage := range []string{"head -c 100 record >R", "mkfifo R", "ln -s nowhere R", "mkdir R", "echo {} >R"} {
		h.must("rm -rf " + record + "; " + strings.ReplaceAll(damage, "R", record))
		run := func(command string) result { return h.sh("xb-snap " + command) }
		for _, command := range []string{"list", "list --points", "prune", "prune --bases", "guard --bases --once --pool-limit 99"} {
			r := run(command)
			if r.fails(t, 0, record, "remove it"); strings.Count(r.err, "\n") != 1 {
				t.Errorf("%s: %s: it is said more than once: %s", damage, command, r.err)
			}
			if strings.HasPrefix(command, "list") && (!strings.Contains(r.out, sound[0].path) || strings.Contains(r.out, first)) {
				t.Errorf("%s: %s shows\n%s", damage, command, r.out)
			}
		}
		if got := h.must("xb-patch --list"); !strings.Contains(got, "there may be more points in time") || !strings.Contains(got, " points, ") {
			t.Errorf("%s: --list shows\n%s", damage, got)
		}
		run("rollback --at " + hour(1+n%2) + " xfs/sound").silent(t)
		h.wantPoints("xfs/sound", hour(1), hour(2), hour(3))
		h.sameBytes(fmt.Sprintf("image%d", 1+n%2), "xfs/sound")
		for _, command := range []string{"list --points xfs/other", "list --points --at " + hour(1) + " xfs/other",
			"rollback --at " + hour(2) + " xfs/other", "remove " + first, "changes --since " + first + " " + sound[1].path} {
			run(command).fails(t, 78, record)
		}
	}
	h.change("source", 9, 9)
	h.auto("source", "xfs/sound", "--keep 9 --taken "+hour(4)).silent(t)
	h.auto("source", "xfs/other", "--disk domu1/xvdb --keep 9 --taken "+hour(4)).fails(t, 0, "a point in time cannot be read", record)
	h.must("mv record " + record)
	h.wantPoints("xfs/other", hour(1), hour(2), hour(3))
	h.sh("xb-snap rollback --at " + hour(1) + " xfs/other").silent(t)
	h.sameBytes("image1", "xfs/other")
}
