package text

import (
	"strings"
	"testing"

	"xen-backup/internal/exit"
)

func TestPath(t *testing.T) {
	for arg, want := range map[string]string{
		"/srv/a.img":                            "/srv/a.img",
		"a%20b":                                 "a%20b", // no URI
		"./file:x":                              "./file:x",
		"file":                                  "file",
		"files:/x":                              "files:/x",
		"-":                                     "-",
		"file:/srv/a.img":                       "/srv/a.img",
		"file:///srv/a.img":                     "/srv/a.img",
		"file://localhost/srv/a.img":            "/srv/a.img",
		"FILE://LocalHost/srv/a.img":            "/srv/a.img",
		"file:///srv/Windows%2010.img":          "/srv/Windows 10.img",
		"file:///srv/Windows 10.img":            "/srv/Windows 10.img",
		"file:///srv/gr%C3%BCn%0A%25%fe%2525%3": "",
		"file:///srv/gr%C3%BCn%0A%25%fe%2525":   "/srv/grün\n%\xfe%25",
		"file:///a+b":                           "/a+b",
		"file:///a%3Fb%23c":                     "/a?b#c",
		"file:///dev/vg/lv":                     "/dev/vg/lv",
		"file:////x":                            "//x",
		"file:":                                 "",
		"file:x":                                "",
		"file://":                               "",
		"file://localhost":                      "",
		"file://dom0b/srv/a.img":                "",
		"file://srv/a.img":                      "", // one slash too few
		"file:///a%":                            "",
		"file:///a%2":                           "",
		"file:///a%zz":                          "",
		"file:///a%00b":                         "",
		"file:///a\x00b":                        "",
		"file:///a?b":                           "",
		"file:///a#b":                           "",
	} {
		got, err := Path(arg)
		if got != want || (err == nil) != (want != "") || err != nil && exit.StatusOf(err) != exit.Usage {
			t.Errorf("%q: %q, %v; want %q", arg, got, err, want)
		}
	}
}

// TestOperand: what is told as a cure must do what it says when it is pasted, here or behind
// ssh.
func TestOperand(t *testing.T) {
	for path, want := range map[string]string{
		"/dev/vg/a.b_c-d":          "/dev/vg/a.b_c-d",
		"./file:x":                 "./file:x",
		"target":                   "target",
		"/srv/a+b@c:d":             "/srv/a+b@c:d",
		"/srv/a=b,c%41":            "file:///srv/a%3Db%2Cc%2541",
		"/srv/Windows 10.img":      "file:///srv/Windows%2010.img",
		"/srv/grün\n$(id)'%20.img": "file:///srv/gr%C3%BCn%0A%24%28id%29%27%2520.img",
	} {
		got := Operand(path)
		if got != want {
			t.Errorf("%q: %s, want %s", path, got, want)
		}
		if back, err := Path(got); back != path || err != nil {
			t.Errorf("%s: %q, %v; want %q", got, back, err, path)
		}
	}
	for _, path := range []string{"-x", "a b"} {
		if got := Operand(path); !strings.HasPrefix(got, "file:///") {
			t.Errorf("%q: %s", path, got)
		}
	}
}
