package domain

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"xen-backup/internal/exit"
)

// warnings collects them.
type warnings []string

func (w *warnings) Warn(format string, args ...any) { *w = append(*w, fmt.Sprintf(format, args...)) }
func (w *warnings) Error(string, ...any)            {}
func (w *warnings) Note(string, ...any)             {}
func (w *warnings) Info(string, ...any)             {}

// listed are disks of every fate but that of one that cannot be copied.
func listed(t *testing.T) (d *Domain, img string) {
	t.Helper()
	img = filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(img, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	return &Domain{Name: "domu1", UUID: "1", ID: "7", Disks: []Disk{
		{Target: "xvda", Device: "disk", Source: img},
		{Target: "xvdb", Device: "disk", Source: img, Shareable: true},
		{Target: "hdc", Device: "cdrom"},
		{Target: "xvdd", Device: "disk", Source: "/none/such"},
	}}, img
}

func TestList(t *testing.T) {
	d, img := listed(t)
	j := &Judge{Resolver: Resolver{Sys: "/sys", Dev: "/dev"}, Exclude: []string{"xvdz"}}
	shared, unknown := "domu1: disk xvdb: left out: it is shareable", "domu1 has no disk xvdz to exclude"
	missing := "domu1: disk xvdd: /none/such: no such file or directory"
	for _, c := range []struct {
		toolstack string
		all       bool
		text      string
		words     []string
	}{
		{"virsh", false, "xvda\tIMG\nxvdd\t/none/such\n", []string{shared, missing, unknown}},
		{"", false, "xvda\tIMG\nxvdd\t/none/such\n", []string{shared, unknown}}, // another host's, maybe
		{"virsh", true, "xvda\tIMG\t-\nxvdb\tIMG\tshareable\nhdc\t-\tcdrom\nxvdd\t/none/such\t-\n",
			[]string{shared, missing, unknown}},
	} {
		var said warnings
		l, err := j.List(Answer{Domain: d, Toolstack: c.toolstack}, c.all, &said)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.ReplaceAll(l.Text(c.all), img, "IMG"); got != c.text || !slices.Equal(said, c.words) {
			t.Errorf("by %q, all %v: %q, %q", c.toolstack, c.all, got, said)
		}
	}
}

// TestListFails: a list that looks whole and is not must not be had, but for who asks for all.
func TestListFails(t *testing.T) {
	d, _ := listed(t)
	d.Disks[0].Trouble = "a chain"
	j := &Judge{Resolver: Resolver{Sys: "/sys", Dev: "/dev"}}
	var said warnings
	l, err := j.List(Answer{Domain: d}, false, &said)
	if l != nil || exit.StatusOf(err) != exit.Config || !strings.Contains(err.Error(), "\nxvda: a chain") {
		t.Errorf("%+v, %v", l, err)
	}
	l, err = j.List(Answer{Domain: d}, true, &said)
	if exit.StatusOf(err) != exit.Config || l == nil || len(l.Disks) != 4 || l.Disks[0].Skip != "a chain" {
		t.Errorf("all: %+v, %v", l, err)
	}
	j.Exclude = []string{"xvda", "xvdd"}
	said = nil
	if l, err := j.List(Answer{Domain: d}, false, &said); err != nil || len(l.Disks) != 0 ||
		said[len(said)-1] != "domu1 has no disk to copy" {
		t.Errorf("none left: %+v, %v, %q", l, err, said)
	}
}

func TestListJSON(t *testing.T) {
	l := &List{Domain: "d", Toolstack: "xl", Disks: []Entry{{Target: "xvda", Source: "/a", Device: "disk", Notice: "n"}}}
	want := `{"domain":"d","toolstack":"xl","disks":[{"target":"xvda","source":"/a","device":"disk"}]}` + "\n"
	if got := l.JSON(); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
