package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// conducted is a script that does with xb-copy what xen-backup.sh does with one DomU: words are options of both
// --prepare and the copy, more those of the copy. Its status is that of the first xb-copy that fails.
func conducted(domu, dom0s, words, more string) string {
	return fmt.Sprintf(`
domu=%s dom0s=%q words=(%s) more=(%s)
run=/run/xen-backup.$$
mkdir -m 700 $run
mkfifo $run/never
exec 5<>$run/never
xb-copy --connect --run $run --connect-timeout 1 ${dom0s#dom0a } <$run/never 5>&- &
until [[ -e $run/dom0s ]]; do sleep 0.05; done
finish() {
	trap '' TERM
	exec 5>&-
	wait
	[[ ! -s $run/snapshots ]] || xb-snap remove $(<$run/snapshots)
	rm -rf $run
}
trap finish EXIT
trap 'exit 143' TERM
xb-locate --copy --words --dom0s "$dom0s" --bundle $run/bundle $domu >$run/rows
copy() { xb-copy --run $run --connect-timeout 1 --domu $domu "${words[@]}" "$@" 5>&-; }
code=0
copy --prepare <$run/rows >$run/ready || code=$?
[[ -s $run/ready ]] || exit $code
other=$(cut -f 2 $run/ready | head -1)
xb-snap create --uri --owner $$ --size 64M $(awk -F '\t' -v o="$other" '$2 == o { print $5 }' $run/ready) >$run/snapshots
copy --snapshots $run/snapshots --bundle $run/bundle "${more[@]}" <$run/ready || code=$?
exit $code
`, domu, dom0s, words, more)
}

// levels drops the lines that only show progress, and those of information.
func (r result) complaints() (lines []string) {
	for line := range strings.Lines(r.err) {
		if !strings.HasPrefix(line, "info ") && !strings.HasPrefix(line, "progress ") {
			lines = append(lines, line)
		}
	}
	return lines
}

// well demands success, and nothing but information.
func (r result) well(t *testing.T) {
	t.Helper()
	if r.status != 0 || len(r.complaints()) > 0 {
		t.Errorf("status %d, %q\n%s", r.status, r.complaints(), r.err)
	}
}

// TestCopy has one disk copied, and copied again, and two as a set.
func TestCopy(t *testing.T) {
	s := newSite(t)
	s.domu1(xvda)
	for range 2 {
		r := s.on("dom0a", conducted("domu1", "dom0a dom0b", "", "--verify"))
		r.well(t)
		r.fails(t, 0, "info ### sync domu1 from dom0a to dom0b: /srv/a.img to /srv/a.img\n", "info #### dom0b:/srv/a.img: verified, blocks 256 changed 0 bytes 0\n")
		s.same(xvda, xvda)
		s.nothingLeft("dom0a")
		s.change("dom0a", xvda)
	}
	s.must("dom0b", "test -s /var/lib/xen-backup/xml/domu1.xml")
	s.domu1(xvda, xvdb)
	set := ""
	for range 2 {
		r := s.on("dom0a", conducted("domu1", "dom0a dom0b", "", ""))
		r.well(t)
		r.fails(t, 0, "info ### commit domu1 on dom0b: xvda xvdb, of 20")
		set = s.renewed(set, xvda, xvdb)
		s.nothingLeft("dom0a")
		s.changeAll(xvda, xvdb)
	}
}
