package conf

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"xen-backup/internal/exit"
	"xen-backup/internal/testkit"
)

// said collects what is said, a line each.
type said struct{ lines []string }

func (s *said) Error(format string, args ...any) { s.add("err", fmt.Sprintf(format, args...)) }
func (s *said) Warn(format string, args ...any)  { s.add("warning", fmt.Sprintf(format, args...)) }
func (s *said) Lost(err error)                   { s.add(fmt.Sprintf("lost %d", exit.StatusOf(err)), err.Error()) }
func (s *said) add(level, text string)           { s.lines = append(s.lines, level+" "+text) }
func (s *said) String() string                   { return strings.Join(s.lines, "\n") }

// folder is a directory of conf files, by their names without the end.
func folder(t *testing.T, files map[string]string) Dir {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		testkit.Write(t, filepath.Join(dir, name+".conf"), text)
	}
	return Dir{Path: dir}
}

// read returns a folder's settings, and what was said, with DIR for its name.
func read(d Dir, only ...string) (confs []*Conf, words string, err error) {
	s := new(said)
	confs, err = d.Read(context.Background(), only, s)
	return confs, strings.ReplaceAll(s.String(), d.Path, "DIR"), err
}

const good = "DOMU=domu1\nDOM0S='dom0a dom0b'\n"

// TestSettings: what a shell allows is taken as the shell takes it.
func TestSettings(t *testing.T) {
	t.Setenv("DOMU", "of-the-surroundings")
	t.Setenv("BWLIMIT", "20M")
	t.Setenv("STALL", "70")
	t.Setenv("BASH_ENV", "/dev/null/nowhere")
	t.Setenv("BASH_FUNC_isset%%", "() { DOMU=function; }")
	t.Setenv("SHELLOPTS", "xtrace:nounset")
	for name, c := range map[string]struct{ text, setting, want string }{
		"plain":               {good, "DOM0S", "dom0a dom0b"},
		"the default":         {good, "SNAPSHOT_SIZE", "1G"},
		"the block size":      {good, "BLOCK_SIZE", "4K"},
		"the verification":    {good, "VERIFY_EVERY", "7d"},
		"no verification":     {good + "VERIFY_EVERY=never\n", "VERIFY_EVERY", "never"},
		"the hash":            {good + "HASH=\n", "HASH", "xxh64"},
		"no value":            {good + "HOOK_TIMEOUT=\n", "HOOK_TIMEOUT", "60"},
		"the surroundings":    {good, "BWLIMIT", "20M"},
		"not of these":        {good + "BWLIMIT=\n", "BWLIMIT", ""},
		"a calculation":       {good + "STALL=$((STALL * 2))\n", "STALL", "140"},
		"an array":            {"DOMU=domu1\nDOM0S=(dom0a dom0b)\nDOM0S+=(dom0c)\n", "DOM0S", "dom0a dom0b dom0c"},
		"with blanks":         {good + "EXCLUDE='\n\txvdb  xvdc\n'\n", "EXCLUDE", "xvdb xvdc"},
		"names of files":      {good + "cd /; MAP='dom0b:/*=/*'\n", "MAP", "dom0b:/*=/*"},
		"another IFS":         {good + "IFS=:; EXCLUDE='xvdb xvdc'\n", "EXCLUDE", "xvdb xvdc"},
		"a command":           {good + "POST_DOMU='echo \"$DOMU\" it'\"'\"'s\n\\done'\n", "POST_DOMU", "echo \"$DOMU\" it's\n\\done"},
		"its end":             {"DOMU=domu1; DOM0S='dom0a dom0b'; return 9\nDOM0S=none", "DOM0S", "dom0a dom0b"},
		"no end":              {strings.TrimSpace(good), "DOM0S", "dom0a dom0b"},
		"an unset variable":   {good + "EXCLUDE=$no_such\nfalse\n", "EXCLUDE", ""},
		"our words":           {good + "end=1 names=2 answers=3 n=4 setting=5\nset -- a b c\n", "DOMU", "domu1"},
		"aliases":             {good + "shopt -s expand_aliases; alias builtin=: printf=: .=: exit=:\n", "DOMU", "domu1"},
		"functions":           {good + "printf() { :; }; compgen() { :; }; exit() { :; }\n", "DOMU", "domu1"},
		"set":                 {good + "set -fCu\n", "DOMU", "domu1"},
		"no output":           {good + "exec >&- 2>&- <&-\n", "DOMU", "domu1"},
		"a trap":              {good + "trap 'exit 9' EXIT\n", "DOMU", "domu1"},
		"where it is":         {good + "XL_CONFIG=$CONF_DIR/x.cfg\n", "XL_CONFIG", "DIR/x.cfg"},
		"standard input":      {good + "read -r DOMU\n[[ -n $DOMU ]] || DOMU=domu1\n", "DOMU", "domu1"},
		"what it leaves":      {good + "sleep 3 >/dev/null 2>&1 &\n", "DOMU", "domu1"},
		"a link":              {good, "DOMU", "domu1"},
		"an exported setting": {good + "export HASH=sha256\n", "HASH", "sha256"},
		"a readonly one":      {good + "declare -r HASH=sha256\n", "HASH", "sha256"},
	} {
		t.Run(name, func(t *testing.T) {
			d := folder(t, map[string]string{"a b": c.text})
			if name == "a link" {
				d = folder(t, map[string]string{"x": good})
				if err := os.Rename(d.Path+"/x.conf", d.Path+"/x"); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink("x", d.Path+"/x.conf"); err != nil {
					t.Fatal(err)
				}
			}
			confs, words, err := read(d)
			if err != nil || words != "" || len(confs) != 1 {
				t.Fatalf("%d confs, %v\n%s", len(confs), err, words)
			}
			if got := strings.ReplaceAll(confs[0].values[c.setting], d.Path, "DIR"); got != c.want {
				t.Errorf("%s is %q, want %q", c.setting, got, c.want)
			}
		})
	}
}

// TestWritten has the file of settings sourced: each value comes back, whatever is in it.
func TestWritten(t *testing.T) {
	confs, words, err := read(folder(t, map[string]string{"0": "exit", "1": good + "POST_DOMU=$'it\\'s `date` $(date) \\\\ \"\\xff\\n\\t !x'\n"}))
	if len(confs) != 1 {
		t.Fatalf("%v\n%s", err, words)
	}
	dir := t.TempDir()
	if err := confs[0].Write(dir); err != nil {
		t.Fatal(err)
	}
	if mode, err := os.Stat(dir + "/2"); err != nil || mode.Mode() != 0o600 {
		t.Errorf("%v, %v", mode, err)
	}
	for _, shell := range []string{"bash", "sh"} {
		out, err := exec.Command(shell, "-euc", ". "+dir+`/2; printf %s "$POST_DOMU|$DOMU|$STALL|$EXCLUDE"`).CombinedOutput()
		if want := "it's `date` $(date) \\ \"\xff\n\t !x|domu1|900|"; err != nil || string(out) != want {
			t.Errorf("%s: %q, want %q, %v", shell, out, want, err)
		}
	}
	testkit.WantStatus(t, "in no directory", confs[0].Write(dir+"/none"), exit.CantCreate)
}

// TestMistakes: a conf file with one has no effect, and its words tell which it is.
func TestMistakes(t *testing.T) {
	const noConf = "lost 78 DIR/a.conf: not a file of shell variables, or it sets what is for the whole run, or it ends the script"
	for name, c := range map[string]struct{ text, want string }{
		"no name":       {"DOM0S=dom0a\n", "lost 78 DIR/a.conf: bad or missing name in DOMU: ''"},
		"a path":        {"DOMU=../a\n" + "DOM0S=dom0a\n", "lost 78 DIR/a.conf: bad or missing name in DOMU: '../a'"},
		"an option":     {"DOMU=-a\n" + "DOM0S=dom0a\n", "lost 78 DIR/a.conf: bad or missing name in DOMU: '-a'"},
		"two names":     {"DOMU='a b'\n" + "DOM0S=dom0a\n", "lost 78 DIR/a.conf: bad or missing name in DOMU: 'a b'"},
		"a number":      {"DOMU=12\nDOM0S=dom0a\n", "lost 78 DIR/a.conf: a DomU whose name is a number cannot be told from others: 12"},
		"no Dom0":       {"DOMU=domu1\n", "lost 78 DIR/a.conf: DOM0S names no Dom0"},
		"a Dom0":        {good + "DOM0S='dom0b -oProxyCommand=reboot'\n", "lost 78 DIR/a.conf: bad DOM0S: -oProxyCommand=reboot"},
		"a pattern":     {good + "DOM0S='dom0[b]'\n", "lost 78 DIR/a.conf: bad DOM0S: dom0[b]"},
		"a disk":        {good + "EXCLUDE=xvda,xvdb\n", "lost 78 DIR/a.conf: bad EXCLUDE: xvda,xvdb"},
		"a size":        {good + "SNAPSHOT_SIZE=0\n", "lost 78 DIR/a.conf: bad SNAPSHOT_SIZE: 0"},
		"two sizes":     {good + "BWLIMIT='1M 2M'\n", "lost 78 DIR/a.conf: bad BWLIMIT: 1M 2M"},
		"a huge size":   {good + "READ_LIMIT=99999999T\n", "lost 78 DIR/a.conf: bad READ_LIMIT: 99999999T"},
		"a time":        {good + "STALL=10m\n", "lost 78 DIR/a.conf: bad STALL: 10m"},
		"an octal time": {good + "STALL=010\n", "lost 78 DIR/a.conf: bad STALL: 010"},
		"code":          {good + "HOOK_TIMEOUT='x[$(reboot)]'\n", "lost 78 DIR/a.conf: bad HOOK_TIMEOUT: x[$(reboot)]"},
		"a block size":  {good + "BLOCK_SIZE=3K\n", "lost 78 DIR/a.conf: bad BLOCK_SIZE: 3K"},
		"a hash":        {good + "HASH=md5\n", "lost 78 DIR/a.conf: bad HASH: md5"},
		"a pause":       {good + "PAUSE=yes\n", "lost 78 DIR/a.conf: bad PAUSE: yes"},
		"a first copy":  {good + "FIRST_COPY=inplace\n", "lost 78 DIR/a.conf: bad FIRST_COPY: inplace"},
		"a background":  {good + "BACKGROUND=true\n", "lost 78 DIR/a.conf: bad BACKGROUND: true"},
		"a group":       {good + "CREATE_LV=/dev/vg\n", "lost 78 DIR/a.conf: bad CREATE_LV: /dev/vg"},
		"of Windows": {"DOMU=domu1\r\nDOM0S=dom0a\r\n", "lost 78 DIR/a.conf: bad or missing name in DOMU: 'domu1?' " +
			"(its lines end with CR LF, as on Windows; here they must not)"},
		"its blank lines": {"\r\n" + good, "err DIR/a.conf: line 1: $'\\r': command not found\n" + noConf +
			" (its lines end with CR LF, as on Windows; here they must not)"},
		"blanks":       {good + "MAP = 'dom0b:/a=/b'\n", "err DIR/a.conf: line 3: MAP: command not found\n" + noConf},
		"no quotes":    {good + "EXCLUDE=xvdb xvdc\n", "err DIR/a.conf: line 3: xvdc: command not found\n" + noConf},
		"no quote":     {good + "MAP='dom0b\n", "err DIR/a.conf: line 3: unexpected EOF while looking for matching `''\n" + noConf},
		"exit":         {good + "exit 0\n", noConf},
		"exec":         {good + "exec true\n", noConf},
		"an error":     {good + "set -e; false\n", noConf},
		"unset":        {good + "set -u; EXCLUDE=$no_such\n", "err DIR/a.conf: line 3: no_such: unbound variable\n" + noConf},
		"noexec":       {good + "set -n\n", noConf},
		"a kill":       {good + "kill -9 $$\n", noConf},
		"its words":    {good + "echo it ends; exit 3\n", "err it ends\n" + noConf},
		"the run":      {good + "JOBS=8\n", "err DIR/a.conf: line 3: JOBS: readonly variable\n" + noConf},
		"its state":    {"STATE_DIR=/srv\n" + good, "err DIR/a.conf: line 1: STATE_DIR: readonly variable\n" + noConf},
		"all of them":  {good + "unset CONF_DIR\n", "err DIR/a.conf: line 3: unset: CONF_DIR: cannot unset: readonly variable\n" + noConf},
		"our own file": {good + "builtin() { :; }\n", noConf},
	} {
		t.Run(name, func(t *testing.T) {
			confs, words, err := read(folder(t, map[string]string{"a": c.text, "b": "DOMU=domu2\nDOM0S='dom0a dom0b'\n"}))
			if words != c.want {
				t.Errorf("said:\n%s\nwant:\n%s", words, c.want)
			}
			if len(confs) != 1 || confs[0].DomU() != "domu2" || confs[0].Number != 2 {
				t.Errorf("the other one is lost, too: %v", confs)
			}
			testkit.WantStatus(t, "the status", err, exit.Config)
		})
	}
}

// TestWarnings: what a conf file prints, and what it sets to no effect.
func TestWarnings(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"output":   {"echo hello\n", "warning DIR/a.conf: hello"},
		"noise":    {`printf 'caf\303\251 \033[31mred\r\nno newline' >&2`, "warning DIR/a.conf: caf?? ?[31mred\nwarning DIR/a.conf: no newline"},
		"an error": {"cat /no/such\n", "warning DIR/a.conf: cat: /no/such: No such file or directory"},
		"typos": {"EXCLUD=xvdb; BW_LIMIT=1M\n", "warning DIR/a.conf: BW_LIMIT is no setting, and nothing uses it\n" +
			"warning DIR/a.conf: EXCLUD is no setting, and nothing uses it"},
		"an array": {"DOMOS=(a b)\n", "warning DIR/a.conf: DOMOS is no setting, and nothing uses it"},
		"no typos": {`VG=vg0; echo $VG >/dev/null; export HOOK=1; LOG_FACILITY=local3; COUNT=3; ((COUNT > 2)); names=none
wide=all; mapfile <<<x; read <<<x; [[ a =~ a ]]; true | true; coproc cat; f() { :; }; f; cd /; ls >/dev/null; getopts a X -a; : $X
select i in a; do break; done <<<1 2>/dev/null`, ""},
		"much": {"for i in {1..200}; do echo $i; done", func() (all string) {
			for i := range 100 {
				all += fmt.Sprintf("warning DIR/a.conf: %d\n", i+1)
			}
			return all + "warning DIR/a.conf: (and 100 more lines)"
		}()},
	} {
		confs, words, err := read(folder(t, map[string]string{"a": good + c.text}))
		if words != c.want || err != nil || len(confs) != 1 {
			t.Errorf("%s: %d confs, %v, said:\n%s\nwant:\n%s", name, len(confs), err, words, c.want)
		}
	}
}

// TestNoFiles: what stands in the directory and is no file that can be read.
func TestNoFiles(t *testing.T) {
	d := folder(t, map[string]string{"z": good})
	if err := os.Symlink("nowhere", d.Path+"/a.conf"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(d.Path+"/b.conf", 0o700); err != nil {
		t.Fatal(err)
	}
	testkit.Command(t, "", "mkfifo", d.Path+"/c.conf")
	testkit.Write(t, d.Path+"/.hidden.conf", "exit")
	testkit.Write(t, d.Path+"/z.conf.bak", "exit")
	confs, words, err := read(d)
	if want := "lost 78 DIR/a.conf: cannot be read: no such file or directory\nlost 78 DIR/b.conf: is no file\n" +
		"lost 78 DIR/c.conf: is no file"; words != want || len(confs) != 1 {
		t.Errorf("%d confs, said:\n%s", len(confs), words)
	}
	testkit.WantStatus(t, "with such", err, exit.Config)
	_, words, err = read(folder(t, nil))
	if testkit.WantStatus(t, "none", err, exit.Config); words != "" || !strings.Contains(err.Error(), "no conf file in /") {
		t.Errorf("%v, said: %s", err, words)
	}
	_, _, err = read(Dir{Path: d.Path + "/none"})
	testkit.WantStatus(t, "no directory", err, exit.Config)
}

// TestOnly asks for some: of the others nothing is said, but that one may be meant that has a mistake.
func TestOnly(t *testing.T) {
	d := folder(t, map[string]string{"1": good, "2": "DOMU=domu2\nMAP = x\n", "3": "DOMU=domu3\necho words\nEXCLUD=1\n",
		"4": good, "5": "DOMU=domu5\nDOM0S=dom0/a\n"})
	for _, c := range []struct {
		only, want string
		n          int
	}{
		{"domu1", "", 2}, // two conf files
		{"domu2", "err DIR/2.conf: line 2: MAP: command not found\nlost 78 DIR/2.conf: " + errNoConf.Error(), 0},
		{"domu5", "lost 78 DIR/5.conf: bad DOM0S: dom0/a", 0},
		{"domu6 domu1", "lost 78 no conf file for DomU domu6, unless it is one with a mistake, which bash -n FILE shows: DIR/2.conf", 2},
	} {
		confs, words, err := read(d, strings.Fields(c.only)...)
		if words != c.want || len(confs) != c.n || exit.StatusOf(err) == exit.Config != (c.want != "") {
			t.Errorf("%s: %d confs, %v, said:\n%s", c.only, len(confs), err, words)
		}
	}
	_, words, _ := read(folder(t, map[string]string{"1": good}), "domu7")
	if words != "lost 78 no conf file for DomU domu7" {
		t.Error(words)
	}
}

// TestHangs has files that do not end, each in its way: they, and all that they have started, are ended.
func TestHangs(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	for name, text := range map[string]string{
		"sleep": "sh -c 'echo $$ >" + mark + "; exec sleep 1000'", "loop": "trap '' TERM; while :; do :; done", "output": "yes",
	} {
		d := folder(t, map[string]string{"a": good + text, "b": good})
		d.Limit = 5 * time.Second
		confs, words, err := read(d)
		testkit.WantStatus(t, name, err, exit.Config)
		if len(confs) != 1 || !strings.HasPrefix(words, "lost 78 DIR/a.conf: cannot be read: bash ") || strings.Contains(words, "\n") {
			t.Errorf("%s: %d confs, said:\n%s", name, len(confs), words)
		}
	}
	if pid := strings.TrimSpace(testkit.Read(t, mark)); pid == "" {
		t.Error("it did not run")
	} else if state, err := os.ReadFile("/proc/" + pid + "/stat"); err == nil && !strings.Contains(string(state), ") Z") {
		t.Errorf("its child is left: %s", state)
	}
}

// TestExcluded: of several conf files for one DomU each knows what the others copy.
func TestExcluded(t *testing.T) {
	dir := t.TempDir()
	conf := func(domu, dom0s, exclude string) *Conf {
		return newConf(1, map[string][]string{"DOMU": {domu}, "DOM0S": {dom0s}, "EXCLUDE": {exclude}})
	}
	if IsCopied(dir, "domu1", "dom0b", "xvda") {
		t.Error("nobody has said so")
	}
	all := []*Conf{conf("domu1", "dom0a dom0b", "xvdb xvdc"), conf("domu1", "dom0a dom0c", "xvda  xvdc"), conf("domu2", "dom0a dom0b", "")}
	if err := WriteExcluded(dir, all); err != nil {
		t.Fatal(err)
	}
	for row, want := range map[string]bool{
		"domu1 dom0b xvda": true, "domu1 dom0b xvdb": false, "domu1 dom0b xvdc": false, "domu1 dom0c xvda": false,
		"domu1 dom0c xvdb": true, "domu1 dom0d xvda": false, "domu2 dom0b xvdc": true, "domu3 dom0b xvda": false,
	} {
		w := strings.Fields(row)
		if got := IsCopied(dir, w[0], w[1], w[2]); got != want {
			t.Errorf("%s: %v", row, got)
		}
	}
	testkit.WantStatus(t, "in no directory", WriteExcluded(dir+"/none", all), exit.CantCreate)
}
