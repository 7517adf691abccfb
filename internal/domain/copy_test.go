package domain

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"xen-backup/internal/testkit"
)

// TestLook: whoever runs the domain, each toolstack is asked at most once, and none in vain.
func TestLook(t *testing.T) {
	dir := t.TempDir()
	img := filepath.Join(dir, "disk.img")
	testkit.Write(t, img, "x")
	here := strings.NewReplacer("/dev/VolGroupXX/LogVolDomU1", img)
	xlRuns := xlSays("@running-xl-list.out", here.Replace(captured(t, "running-xl-list-l-all.out")))
	virshRuns := virshSays("@running-domstate-reason.out", here.Replace(captured(t, "running-dumpxml.out")))
	config := filepath.Join(dir, "domu1.cfg")
	testkit.Write(t, config, "name = 'domu1'\nuuid = '"+domu1UUID+"'\ndisk = [ 'phy:"+img+",xvda,w' ]\n")
	const size = "\t1\t512\troot:root\t600\t"
	for name, c := range map[string]struct {
		answers map[string]string
		rows    string
		kept    string
		asked   map[string]int
	}{
		"libvirt": {both(virshRuns, xlRuns), size + domu1UUID + "\txml\n", "kept.xml",
			map[string]int{"virsh-list": 1, "virsh-dumpxml": 2, "virsh-domstate": 1, "virsh-dominfo": 0, "xl-list": 0}},
		"xl": {both(virshNone, xlRuns), size + domu1UUID + "\txl\n", "kept.cfg",
			map[string]int{"virsh-list": 1, "virsh-dumpxml": 0, "xl-list": 1, "xl-list-l": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			asked := replay(t, c.answers)
			toolstacks, err := Installed("auto", "", config)
			if err != nil {
				t.Fatal(err)
			}
			l := Locator{Toolstacks: toolstacks, Pause: time.Millisecond}
			judge := NewJudge(context.Background(), "", nil, nil)
			dir := t.TempDir()
			words := new(warnings)
			rows, err := l.Look(context.Background(), judge, "domu1", Copy{Document: filepath.Join(dir, "kept")}, words)
			if err != nil || rows != "xvda\t"+img+c.rows || len(*words) > 0 {
				t.Errorf("%q, %v, %q", rows, err, *words)
			}
			if names := testkit.Names(t, dir); names != c.kept {
				t.Errorf("kept is %s, want %s", names, c.kept)
			}
			for question, want := range c.asked {
				if n := asked(question); n != want {
					t.Errorf("%s was asked %d times, want %d", question, n, want)
				}
			}
		})
	}
}
