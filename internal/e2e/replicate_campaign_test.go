package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"xen-backup/internal/testkit"
)

// TestReplicationCampaign lets the standbys of DomUs live through random histories, in which any part of any program may
// fail, and what is kept here and there may be lost, exchanged or written to. After each run a standby is the snapshot, or
// is what it was; what is remembered of it is what a reading of all of it finds; and a run in which nothing fails is a good
// one, whatever has become of the bases. XB_CAMPAIGN makes it so many times as many histories, up to 300; XB_CAMPAIGN_SEED
// makes it another campaign.
func TestReplicationCampaign(t *testing.T) {
	histories := min(testkit.Rounds(t, 2), 300)
	seed := testkit.Seed(t)
	for i, kind := range testkit.Some(t, 1, "xfs", "btrfs") {
		t.Run(kind, func(t *testing.T) {
			h := newHost(t)
			h.fileSystem(kind, "fs")
			h.stands()
			total := map[string]int{}
			for n := i; n < histories; n += 2 {
				c := &chain{host: h, Rand: rand.New(rand.NewPCG(seed, uint64(n))), total: total}
				if c.live(n); t.Failed() {
					return
				}
			}
			t.Logf("%s: %d runs, %d of them failed as they had to; %d disks were copied tracked and %d in full; "+
				"bases were spoiled %d times, standbys %d times, and programs failed %d times; %d applies were finished later", kind,
				total["runs"], total["failed"], total["tracked"], total["full"], total["bases"], total["standbys"], total["faults"],
				total["recovered"])
			if total["tracked"] == 0 || total["full"] == 0 {
				t.Error("not all has been tried")
			}
		})
	}
}

// stands puts in the place of ssh what runs a program here, with the memory of another host; and in the place of others
// what lets them fail once, as DOM0.fault or local.fault tells.
func (h *host) stands() {
	h.Helper()
	h.must("mkdir -m 700 sbin run")
	for name, text := range map[string]string{
		"xb-locate": "echo no",
		"ssh": `while [[ $1 = -* ]]; do [[ $1 != -o ]] || shift; shift; done
fault=` + h.dir + `/$1.fault
export XB_STATE_DIR=` + h.dir + `/$1.state
shift
[[ -e $fault ]] || exec "$@"
read -r option how n <$fault
[[ " $* " = *" $option "* ]] && rm $fault 2>/dev/null || exec "$@"
case $how in
none) ;;
cut) head -c $n | "$@" ;;
lost) "$@" ;;
kill) "$@" <&0 &
	sleep 0.$n
	kill -9 $! ;;
apply) "$@" <&0 &
	until grep -qs applying "$XB_STATE_DIR"/*.json || ! kill -0 $!; do :; done
	kill -9 $! ;;
esac
exit 255`,
		"xb-snap": `fault=` + h.dir + `/local.fault
[[ -e $fault ]] || exec ` + bin + `/xb-snap "$@"
read -r command how <$fault
[[ $1 = "$command" ]] && rm $fault || exec ` + bin + `/xb-snap "$@"
[[ $how = none ]] || ` + bin + `/xb-snap "$@"
kill -9 $$`,
	} {
		h.note(h.path("sbin/"+name), "#!/bin/bash\n"+text+"\n")
		if err := os.Chmod(h.path("sbin/"+name), 0o755); err != nil {
			h.Fatal(err)
		}
	}
	h.env[0] = strings.Replace(h.env[0], "PATH=", "PATH="+h.path("sbin")+":", 1)
	var known string
	for _, dom0 := range []string{"dom0b", "dom0c"} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: h.path("run/" + dom0), Net: "unix"})
		if err != nil {
			h.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
		known += dom0 + "\t" + h.path("run/"+dom0) + "\n"
	}
	h.write("run/dom0s", []byte(known))
}

// chain is a DomU with its standbys on two hosts.
type chain struct {
	*host
	*rand.Rand
	disks    []*history
	standbys [][]*replica // of each host, of each disk
	fault    bool         // in this run
	done     []string     // in words
	total    map[string]int
}

// replica is a standby of which is known what it has to be.
type replica struct {
	dom0, disk, path string
	loop             bool
	was              []byte // what it holds; nil: it does not exist
	right            []byte // what it would hold had nobody touched it; nil: that does not matter
	older            []byte // what it has held before
	size             int    // of the image in it
}

// isTouched reports whether somebody else has written to the image.
func (r *replica) isTouched() bool {
	return r.right != nil && (!bytes.Equal(r.was[:min(r.size, len(r.was))], r.right[:r.size]) || !r.loop && len(r.was) != len(r.right))
}

func (c *chain) tell(format string, args ...any) {
	c.done = append(c.done, fmt.Sprintf(format, args...))
}

// percent is true so often.
func (c *chain) percent(n int) bool { return c.IntN(100) < n }

// live is a history. When it ends the test, in whatever way, it is told.
func (c *chain) live(n int) {
	c.Helper()
	defer func() {
		if c.Failed() {
			c.Logf("history %d: %s", n, strings.Join(c.done, ", "))
		}
	}()
	for i := range 1 + n/2%2 {
		y := &history{host: c.host, Rand: c.Rand}
		name := fmt.Sprintf("fs/disk%d-%d", n, i)
		c.write(name, y.bytes(1+c.Int64N(mib)))
		var err error
		if y.f, err = os.OpenFile(c.path(name), os.O_RDWR, 0); err != nil {
			c.Fatal(err)
		}
		defer y.f.Close()
		c.disks = append(c.disks, y)
	}
	for _, dom0 := range []string{"dom0b", "dom0c"} {
		var all []*replica
		c.must("mkdir -p " + dom0 + " " + dom0 + ".state")
		for i := range c.disks {
			r := &replica{dom0: dom0, disk: fmt.Sprintf("xvd%c", 'a'+i), path: c.path(fmt.Sprintf("%s/disk%d-%d", dom0, n, i))}
			if r.loop = c.percent(40); r.loop {
				c.must("truncate -s 4M " + r.path)
				r.path = c.loop(r.path)
			}
			r.was = c.holds(r)
			all = append(all, r)
		}
		c.standbys = append(c.standbys, all)
	}
	defer c.forget()
	for range 4 + c.IntN(3) {
		c.writeAll()
		if c.percent(30) {
			c.spoilBases()
		}
		if c.percent(25) {
			c.spoilStandbys()
		}
		if c.runOnce(true); c.Failed() {
			return
		}
		c.repair()
	}
	c.runOnce(false)
}

// forget removes what a history leaves.
func (c *chain) forget() {
	c.must("xb-snap prune --bases --peers ''; rm -rf fs/disk* fs/.disk* *.fault " + c.state + " dom0?.state")
	for _, all := range c.standbys {
		for _, r := range all {
			if r.loop {
				c.must("losetup --detach " + r.path)
			}
		}
	}
	c.must("rm -rf dom0?")
}

// writeAll is what the DomU does between two runs.
func (c *chain) writeAll() {
	c.Helper()
	for _, y := range c.disks {
		for range c.IntN(5) {
			y.step()
		}
		if info, err := y.f.Stat(); err != nil || info.Size() == 0 || info.Size() > 4*mib {
			if err := y.f.Truncate(1 + c.Int64N(mib)); err != nil {
				c.Fatal(err)
			}
		}
		if err := y.f.Sync(); err != nil {
			c.Fatal(err)
		}
		c.done, y.done = append(c.done, y.done...), nil
	}
}

// spoilBases has something happen to what is kept here.
func (c *chain) spoilBases() {
	c.Helper()
	c.total["bases"]++
	snaps, _ := filepath.Glob(c.path("fs/.disk*.xb-snap-*"))
	if len(snaps) == 0 {
		return
	}
	snap := snaps[c.IntN(len(snaps))]
	script := []string{
		"rm -f " + snap,
		"xb-snap prune --bases --peers ''",
		"xb-snap prune --bases --peers dom0b",
		"cp --reflink=always " + c.disks[0].f.Name() + " fs/foreign && chmod 400 fs/foreign && mv -f fs/foreign " + snap,
		"chmod 600 " + snap + " && printf x | dd of=" + snap + " conv=notrunc status=none && chmod 400 " + snap,
		"chmod 600 " + snap,
		"truncate -s 0 " + snap,
		"rm -rf " + c.state + "/bases",
		"for f in " + c.state + "/bases/*/dom0b.json; do [ ! -e $f ] || sed s/dom0b/dom0c/ $f >${f%dom0b.json}dom0c.json; done",
	}[c.IntN(9)]
	c.tell("base: %s", strings.ReplaceAll(script, c.dir+"/", ""))
	c.must(script)
}

// spoilStandbys has something happen to a standby.
func (c *chain) spoilStandbys() {
	c.Helper()
	all := c.standbys[c.IntN(len(c.standbys))]
	r := all[c.IntN(len(all))]
	if r.right == nil {
		return
	}
	c.total["standbys"]++
	content := func(b []byte) { // written to what is there
		c.write("content", b)
		c.must("dd if=content of=" + r.path + " bs=1M conv=notrunc,fsync status=none")
	}
	var what string
	switch k := c.IntN(8); {
	case k < 2 && len(r.right) > 0:
		what = "written to"
		b := slices.Clone(r.was)
		b[c.IntN(len(r.right))] ^= 0xff
		content(b)
	case k == 2:
		what = "content of an earlier time"
		if r.loop {
			content(r.older)
		} else {
			c.write("content", r.older)
			c.must("cat content >" + r.path)
		}
	case k == 3 && !r.loop:
		what = "replaced by its copy"
		c.must(fmt.Sprintf("cp %[1]s %[1]s.copy && mv -f %[1]s.copy %[1]s", r.path))
	case k == 4 && !r.loop:
		what = "gone"
		c.must("rm " + r.path)
	case k == 5 && !r.loop:
		what = "replaced by something else"
		c.write("content", randomBytes(1+c.Int64N(mib), c.Uint64()))
		c.must("mv -f content " + r.path)
	case k == 6:
		what = "its host has lost its memory"
		c.must("rm -rf " + c.path(r.dom0) + ".state")
		for _, r := range all { // nobody knows better
			r.right = c.holds(r)
			r.size = min(r.size, len(r.right))
		}
	default:
		what = "read by others"
		c.must("cat " + r.path + " >/dev/null")
	}
	c.tell("%s's %s: %s", r.dom0, r.disk, what)
	r.was = c.holds(r)
}

// holds returns what a standby holds.
func (c *chain) holds(r *replica) []byte {
	c.Helper()
	if !exists(r.path) {
		return nil
	}
	return content(c, r.path)
}

func (c *chain) isTouched(all []*replica) bool {
	return slices.ContainsFunc(all, (*replica).isTouched)
}

// spoilRun has a part of the next run fail.
func (c *chain) spoilRun() (what, kill string) {
	c.Helper()
	c.total["faults"]++
	far := []string{"--prepare none", "--prepare lost", "--auto none", "--auto lost", "--commit none", "--commit lost",
		fmt.Sprintf("--auto cut %d", c.IntN(5000)), fmt.Sprintf("--auto kill %02d", c.IntN(8)), fmt.Sprintf("--commit kill %02d", c.IntN(8)),
		"--auto apply", "--commit apply", "--heartbeat none"}
	local := []string{"changes none", "keep none", "keep lost", "changes lost"}
	switch k := c.IntN(len(far) + len(local) + 2); {
	case k < len(far):
		dom0 := c.standbys[c.IntN(2)][0].dom0
		c.write(dom0+".fault", []byte(far[k]+"\n"))
		return dom0 + " " + far[k], ""
	case k-len(far) < len(local):
		c.write("local.fault", []byte(local[k-len(far)]+"\n"))
		return "xb-snap " + local[k-len(far)], ""
	}
	kill = fmt.Sprintf("timeout -s KILL 0.%02d ", 1+c.IntN(25))
	return kill + "xb-copy", kill
}

// rows are those of the disks on these hosts.
func (c *chain) rows(wanted func(dom0 string) bool) string {
	c.Helper()
	var b strings.Builder
	for _, all := range c.standbys {
		for i, r := range all {
			if info, err := c.disks[i].f.Stat(); err != nil {
				c.Fatal(err)
			} else if wanted(r.dom0) {
				fmt.Fprintf(&b, "dom0a\t%s\t%s\t%s\t%s\t%d\t512\t-\t-\t-\t-\n", r.dom0, r.path, r.disk, c.disks[i].f.Name(), info.Size())
			}
		}
	}
	return b.String()
}

// runOnce is one run, in which something may fail; then all standbys are looked at.
func (c *chain) runOnce(mayFail bool) {
	c.Helper()
	c.total["runs"]++
	options, kill, only := "--background=no", "", ""
	if mayFail && c.percent(20) {
		only = c.standbys[c.IntN(2)][0].dom0
	}
	if c.fault = mayFail && c.percent(30); c.fault {
		var what string
		what, kill = c.spoilRun()
		c.tell("fails: %s", what)
	}
	if c.percent(15) {
		options += " --verify"
	}
	c.tell("run %s%s", only, options)
	wanted := func(dom0 string) bool { return only == "" || only == dom0 }
	c.write("rows", []byte(c.rows(wanted)))
	common := "xb-copy --run " + c.path("run") + " --domu domu1 --connect-timeout 1 --track yes " + options
	r := c.sh(common + " --prepare <rows >ready")
	status, said := r.status, r.err
	var names []string
	for _, y := range c.disks {
		names = append(names, y.f.Name())
	}
	snaps := strings.Fields(c.must(fmt.Sprintf("xb-snap create --owner %d %s | tee snapshots", os.Getpid(), strings.Join(names, " "))))
	var images [][]byte
	for _, snap := range snaps {
		images = append(images, content(c, snap))
	}
	ready := string(c.read("ready"))
	if ready != "" {
		r = c.sh(kill + common + " --snapshots snapshots <ready")
		status, said = max(status, r.status), said+r.err
	}
	if kill != "" {
		c.quiet()
	}
	c.must("rm -f *.fault; xb-snap remove --unless-kept " + strings.Join(snaps, " ") + "; xb-snap prune --bases >/dev/null")
	c.total["full"] += strings.Count(said, "compared in full")
	c.total["tracked"] += strings.Count(said, "### sync") - strings.Count(said, "compared in full")
	touched := false
	for _, all := range c.standbys {
		if wanted(all[0].dom0) {
			touched = c.isTouched(all) || touched
			c.look(all, images, said)
		} else {
			c.unchanged(all)
		}
	}
	if !c.fault && !touched && (status != 0 || strings.Contains(said, "\nerr ")) {
		c.Errorf("status %d, and nothing has failed\n%s", status, said)
	}
	if status != 0 {
		c.total["failed"]++
	}
	if c.percent(50) {
		c.checkBases()
	}
}

// quiet waits until nothing is left of a run that was killed.
func (c *chain) quiet() {
	c.Helper()
	eventually(c, "the end of all programs", func() bool {
		return c.sh("grep -lzsx XB_STATE_DIR="+c.path("dom0")+"..state /proc/[0-9]*/environ | grep -v /self/").out == ""
	})
}

// unchanged demands that standbys are what they were.
func (c *chain) unchanged(all []*replica) {
	c.Helper()
	for _, r := range all {
		if !bytes.Equal(c.holds(r), r.was) {
			c.Errorf("%s's %s was changed by a run to another host", r.dom0, r.disk)
		}
	}
}

// look demands of a host's standbys that they all are the new images, or what they were.
func (c *chain) look(all []*replica, images [][]byte, said string) {
	c.Helper()
	touched := c.isTouched(all)
	state := make([]remembered, len(all))
	for i, r := range all {
		state[i] = c.remembered(r)
		if state[i].Phase == "applying" {
			if !c.fault {
				c.Errorf("%s's %s was left behind\n%s", r.dom0, r.disk, said)
			}
			c.total["recovered"]++
			c.far(r.dom0, "xb-patch -q --recover "+r.path)
			state[i] = c.remembered(r)
		}
	}
	renewed, stayed := 0, 0
	// else there is no image to keep, and a first copy is made in place
	whole := !slices.ContainsFunc(all, func(r *replica) bool { return r.older == nil })
	for i, r := range all {
		now := c.holds(r)
		isNew := state[i].Phase == "clean" && len(now) >= len(images[i]) && bytes.Equal(now[:len(images[i])], images[i]) &&
			(r.loop || len(now) == len(images[i]))
		isOld := bytes.Equal(now, r.was)
		switch {
		case isNew && (!touched || isOld):
			if !isOld {
				renewed++
			}
			r.older, r.right, r.size = r.right, now, len(images[i])
			if r.older == nil {
				r.older = now
			}
		case isOld && (c.fault || touched):
			stayed++
		case c.fault && r.right == nil && (state[i].Phase == "incomplete" || state[i].Phase == "clean"): // a first copy, in place
		default:
			c.Errorf("%s's %s is %+v, new: %v, as it was: %v; somebody had written to a standby there: %v\n%s", r.dom0, r.disk, state[i],
				isNew, isOld, touched, said)
		}
		r.was = now
		if !touched && state[i].Phase == "clean" && (isNew || r.right != nil) { // else it is not what is remembered
			c.checkDigest(r, state[i])
		}
	}
	if renewed > 0 && stayed > 0 && whole {
		c.Errorf("%d of the disks on %s are new, and %d are not\n%s", renewed, all[0].dom0, stayed, said)
	}
}

type remembered struct {
	Phase, Digest string
}

func (c *chain) remembered(r *replica) (m remembered) {
	c.Helper()
	if exists(r.path) {
		decode(c, c.far(r.dom0, "xb-patch --state "+r.path), &m)
	}
	return m
}

// far runs a script on another host.
func (c *chain) far(dom0, script string) string {
	c.Helper()
	return c.must("export XB_STATE_DIR=" + c.path(dom0) + ".state; " + script)
}

// checkDigest demands that what is remembered of a standby is what is read of it.
func (c *chain) checkDigest(r *replica, state remembered) {
	c.Helper()
	c.far(r.dom0, "xb-sig --summary found "+r.path+" >/dev/null")
	if found := c.summary("found"); found.Digest != state.Digest {
		c.Errorf("%s's %s: remembered is %s, and it holds %s", r.dom0, r.disk, state.Digest, found.Digest)
	}
}

// checkBases demands of each base that can be used that it has the image that it is remembered for.
func (c *chain) checkBases() {
	c.Helper()
	for _, y := range c.disks {
		for _, all := range c.standbys {
			for line := range strings.Lines(c.must("xb-snap base --peer " + all[0].dom0 + " " + y.f.Name() + " 2>/dev/null")) {
				var b struct{ Snapshot, Image string }
				if err := json.Unmarshal([]byte(line), &b); err != nil {
					c.Fatal(err)
				}
				c.must("xb-sig --summary found " + b.Snapshot + " >/dev/null")
				if s := c.summary("found"); b.Image != fmt.Sprintf("%s:%d:%d:%s", s.Hash, s.BlockSize, s.ImageSize, s.Digest) {
					c.Errorf("the base of %s is remembered for %s, and is %+v", all[0].dom0, b.Image, s)
				}
			}
		}
	}
}

// repair has an administrator make standbys good that were written to: what they were, or free to be overwritten.
func (c *chain) repair() {
	c.Helper()
	for _, all := range c.standbys {
		for _, r := range all {
			if !r.isTouched() {
				continue
			}
			if c.percent(50) || r.was == nil {
				c.tell("put back %s's %s", r.dom0, r.disk)
				c.write("content", r.right)
				c.must("cat content | dd of=" + r.path + " bs=1M conv=fsync status=none")
			} else {
				c.tell("discard changes of %s's %s", r.dom0, r.disk)
				c.far(r.dom0, "xb-patch -q --discard-changes "+r.path)
				r.right = nil
			}
			r.was = c.holds(r)
		}
	}
}
