package replicate

import (
	"bufio"
	"io"
	"slices"
	"strings"

	"xen-backup/internal/exit"
	"xen-backup/internal/text"
)

// Row is a disk and its standby on one other Dom0, as xb-locate --copy --dom0s tells it. Paths are what a shell can take.
type Row struct {
	Local, Dom0, Target                           string
	Disk, Source, Size, Sector, Owner, Mode, UUID string
	Format                                        string
	Answer                                        string // of xb-patch --prepare, when it was asked
	Witness                                       string // of the source at that time, encoded; for a last copy
}

// none stands in a row for what is not known.
const none = "-"

const maxRow = 1 << 16

// What names of hosts, DomUs and disks look like, and what means nothing to any shell on the other side.
var (
	nameForm = text.Pattern(`^[A-Za-z0-9_.+:@][A-Za-z0-9_.+:@-]*$`)
	wordForm = text.Pattern(`^[A-Za-z0-9_/.+:@%-]+$`)
)

// checkNames refuses what is no name of a Dom0: it becomes an argument of ssh.
func checkNames(dom0s []string) error {
	for _, name := range dom0s {
		if !nameForm().MatchString(name) {
			return exit.Fail(exit.Usage, "bad name of a Dom0: %s", name)
		}
	}
	return nil
}

// ReadRows reads lines of columns that tabs part, with the answers if these were asked for.
func ReadRows(in io.Reader, answered bool) (rows []*Row, err error) {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxRow)
	for lines.Scan() {
		r := &Row{Witness: none}
		columns, values := r.columns(answered), strings.Split(lines.Text(), "\t")
		if len(values) != len(columns) {
			return nil, exit.Fail(exit.Usage, "a row of %d columns, not %d: %q", len(values), len(columns), lines.Text())
		}
		for i, value := range values {
			if *columns[i] = value; columns[i] != &r.Answer && columns[i] != &r.Witness && !wordForm().MatchString(value) {
				return nil, exit.Fail(exit.Usage, "a row with a word that may mean something to a shell: %q", value)
			}
		}
		if !nameForm().MatchString(r.Dom0) || !nameForm().MatchString(r.Local) || !nameForm().MatchString(r.Disk) {
			return nil, exit.Fail(exit.Usage, "a row with a bad name of a host or disk: %q", lines.Text())
		}
		rows = append(rows, r)
	}
	if err := lines.Err(); err != nil {
		return nil, exit.Fail(exit.IOError, "standard input: %w", exit.Cause(err))
	}
	if len(rows) == 0 {
		return nil, exit.Fail(exit.Usage, "standard input has no row")
	}
	return rows, nil
}

func (r *Row) columns(answered bool) []*string {
	list := []*string{&r.Local, &r.Dom0, &r.Target, &r.Disk, &r.Source, &r.Size, &r.Sector, &r.Owner, &r.Mode, &r.UUID, &r.Format}
	if answered {
		list = append(list, &r.Answer, &r.Witness)
	}
	return list
}

// String is the row with its answer.
func (r *Row) String() string {
	var values []string
	for _, column := range r.columns(true) {
		values = append(values, *column)
	}
	return strings.Join(values, "\t")
}

// place is the standby.
func (r *Row) place() string { return r.Dom0 + ":" + r.Target }

// answered returns a word of the answer, "" if it is not in it.
func (r *Row) answered(key string) string {
	for _, word := range strings.Fields(r.Answer) {
		if value, is := strings.CutPrefix(word, key+"="); is {
			return value
		}
	}
	return ""
}

// byDom0 returns the rows of each Dom0, in their order.
func byDom0(rows []*Row) (all [][]*Row) {
	for _, r := range rows {
		i := slices.IndexFunc(all, func(of []*Row) bool { return of[0].Dom0 == r.Dom0 })
		if i < 0 {
			i, all = len(all), append(all, nil)
		}
		all[i] = append(all[i], r)
	}
	return all
}
