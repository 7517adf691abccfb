package domain

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"xen-backup/internal/exit"
)

// definition is a shut-off domain of the KVM driver.
func definition(name, uuid, disks string) string {
	return "<domain type='kvm'><name>" + name + "</name><uuid>" + uuid + "</uuid><devices>" + disks +
		"</devices></domain>\n\n"
}

func TestClaims(t *testing.T) {
	h := newHost(t)
	block := h.node("dev/vg/a", 0o060000, 7, 99)
	mapped := h.node("dev/mapper/vg-a", 0o060000, 7, 99)
	img := h.file("srv/a.img", "")
	link := h.link("srv/link.img", img)
	missing := h.root + "/srv/none.img"
	const (
		u1 = "11111111-0000-4000-8000-000000000001"
		u2 = "11111111-0000-4000-8000-000000000002"
		u3 = "11111111-0000-4000-8000-000000000003"
		u4 = "11111111-0000-4000-8000-000000000004"
	)
	file := func(path, target string) string {
		return "<disk type='file'><source file='" + path + "'/><target dev='" + target + "'/></disk>"
	}
	h.file("etc/xen/xl1.cfg", "name = 'xl1'\nuuid = '"+u4+"'\ndisk = [ 'phy:"+mapped+",xvda,w' ]\n")
	h.file("etc/xen/xl2.cfg", "name = 'xl2'\ndisk = [ '"+missing+",,xvdb' ]\n")
	h.file("etc/xen/old.cfg", "import os\ndisk = [ '"+img+",,xvdb' ]\n")
	h.file("etc/xen/other.conf", "disk = [ '"+img+",,xvdb' ]\n")
	list := hostUUID + " Domain-0 \n" + u1 + " web \n" + u2 + " own \n" + u3 + " pooled \n\n"
	twice := func(name, uuid, disks string) string { return strings.Repeat(definition(name, uuid, disks), 2) }
	documents := definition("web", u1, file(img, "vda")) + definition("web", u1, file(img, "vda")+file(missing, "vdb")) +
		twice("own", u2, file(link, "sda")+file(block, "sdb")) +
		twice("pooled", u3, "<disk type='volume'><source pool='p' volume='a.img'/><target dev='vdp'/></disk>"+
			"<disk type='volume'><source pool='q' volume='x'/><target dev='vdq'/></disk>"+
			"<disk type='network'><source protocol='rbd' name='"+img+"'/><target dev='vdr'/></disk>")
	answers := map[string]string{"virsh-list": list, "virsh-dumpxml": documents, "xl-list": xlHeader,
		"xl-list-l": captured(t, "running-xl-list-l-all.out")}
	replay(t, answers)
	l := Locator{Toolstacks: []Toolstack{newVirsh(""), &xl{etc: h.root + "/etc", proc: h.root, timeout: patience}}}
	volumes := func(_ context.Context, pool, volume string) (string, error) {
		if pool == "p" {
			return "", errors.New("not active")
		}
		return block, nil
	}
	for path, want := range map[string]string{
		img: "[web (" + u1 + "), as its disk vda own (" + u2 + "), as its disk sda pooled (" + u3 +
			"), as its disk vdp " + h.root + "/etc/xen/old.cfg, as its disk (its configuration cannot be read)]",
		block: "[own (" + u2 + "), as its disk sdb pooled (" + u3 + "), as its disk vdq xl1 (" + u4 +
			"), as its disk xvda]",
		missing:                       "[web (" + u1 + "), as its disk vdb xl2, as its disk xvdb]",
		h.root + "/none":              "[]",
		"/dev/VolGroupXX/LogVolDomU1": "[domu1, as its disk xvda]",
	} {
		got, err := l.claims(context.Background(), path, volumes)
		if err != nil || fmt.Sprint(got) != want {
			t.Errorf("%s is claimed by %v, %v; want %s", path, got, err, want)
		}
	}
	asked, _ := os.ReadFile(filepath.Join(os.Getenv("REPLAY"), "virsh-dumpxml.asked"))
	want := "dumpxml --domain " + u1 + "; dumpxml --inactive --domain " + u1 + "; dumpxml"
	if !strings.HasPrefix(string(asked), want) {
		t.Errorf("libvirt was asked %q, want %q", asked, want)
	}
	answers["virsh-dumpxml"] = definition("web", u1, "")
	replay(t, answers)
	if got, err := l.claims(context.Background(), img, volumes); exit.StatusOf(err) != exit.Unavailable ||
		!strings.Contains(err.Error(), "prints 1 documents of 3 domains") {
		t.Errorf("documents are missing: %v, %v", got, err)
	}
	replay(t, both(virshBroken, xlNone))
	if got, err := Claims(context.Background(), "auto", img); exit.StatusOf(err) != exit.Unavailable ||
		!strings.Contains(err.Error(), "cannot tell whose disk "+img+" is") {
		t.Errorf("%v, %v", got, err)
	}
	t.Setenv("PATH", t.TempDir())
	if got, err := Claims(context.Background(), "auto", img); err != nil || got != nil {
		t.Errorf("no toolstack: %v, %v", got, err)
	}
}

func TestClaimOf(t *testing.T) {
	const a, b = "11111111-0000-4000-8000-00000000000a", "11111111-0000-4000-8000-00000000000b"
	for _, c := range []struct {
		claim      Claim
		name, uuid string
		want       bool
	}{
		{Claim{Name: "web", UUID: a}, "web", a, true},
		{Claim{Name: "web", UUID: a}, "renamed", strings.ToUpper(a), true},
		{Claim{Name: "web", UUID: b}, "web", a, false},
		{Claim{Name: "web"}, "web", a, true},
		{Claim{Name: "web", UUID: a}, "web", "", true},
		{Claim{Name: "web", UUID: a}, "mail", "", false},
	} {
		if c.claim.Of(c.name, c.uuid) != c.want {
			t.Errorf("%v of %s (%s): want %v", c.claim, c.name, c.uuid, c.want)
		}
	}
}

func TestMigratedAway(t *testing.T) {
	for state, want := range map[string]string{
		"shut off (migrated)\n": "domu1 was migrated away from here (virsh: shut off (migrated))",
		"shut off (shutdown)\n": "",
		"running (migrated)\n":  "", // it came here that way
	} {
		replay(t, virshSays(state, "@shutoff-dumpxml.out"))
		if words := MigratedAway(context.Background(), "domu1"); words != want {
			t.Errorf("%s: %q, want %q", state, words, want)
		}
	}
	replay(t, virshBroken)
	if words := MigratedAway(context.Background(), "domu1"); words != "" {
		t.Errorf("no libvirtd: %s", words)
	}
}
