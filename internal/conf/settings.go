package conf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"xen-backup/internal/exit"
	"xen-backup/internal/state"
	"xen-backup/internal/stream"
	"xen-backup/internal/text"
)

// setting is one that a conf file may make. Where it has a fallback the environment may have another one.
type setting struct {
	name, fallback string
	list           bool // words, or an array of them
	means          func(value string) bool
}

// settings are all of them; what has no means is free text. DOMU is the first.
var settings = []setting{
	{name: "DOMU"}, // see checkName
	{name: "DOM0S", list: true, means: isWord},
	{name: "SNAPSHOT_SIZE", fallback: "1G", means: isSize},
	{name: "EXCLUDE", list: true, means: isWord},
	{name: "MAP", list: true}, // its rules are read with the disks at hand
	{name: "BWLIMIT", means: isSize},
	{name: "READ_LIMIT", means: isSize},
	{name: "BACKGROUND", means: oneOf("yes", "no")},
	{name: "STALL", fallback: "900", means: isSeconds},
	{name: "BLOCK_SIZE", fallback: "4K", means: isBlockSize},
	{name: "HASH", fallback: "xxh64", means: oneOf("xxh64", "sha256")},
	{name: "TRACK", fallback: "auto", means: oneOf("auto", "yes", "no")},
	{name: "VERIFY_EVERY", fallback: "7d", means: isEvery},
	{name: "PAUSE", means: oneOf("no", "auto", "freeze", "freeze-or-go")},
	{name: "FIRST_COPY", means: oneOf("spool", "in-place")},
	{name: "CREATE_LV", means: isWord},
	{name: "KEEP", means: isKeep},
	{name: "XL_CONFIG"},
	{name: "PRE_SNAPSHOT"},
	{name: "POST_SNAPSHOT"},
	{name: "POST_DOMU"},
	{name: "HOOK_TIMEOUT", fallback: "60", means: isSeconds},
	{name: "LOG_FACILITY"},
	{name: "LOG_OPTION"},
}

func isSetting(name string) bool {
	return slices.ContainsFunc(settings, func(s setting) bool { return s.name == name })
}

// runWide are settings of the whole run: a conf file cannot make them.
var runWide = []string{"CONF_DIR", "XML_DIR", "LOCAL_DOM0", "VIRSH_URI", "TOOLSTACK", "JOBS", "DOMUS_AT_ONCE", "MAX_AGE",
	"METRICS", "POST_RUN", "PING_URL", "RUN_DIR", "STATE_DIR", "SPOOL_DIR"}

// word is what may travel to another host and come before a colon. It is no option.
var word = text.Pattern(`^[A-Za-z0-9_.+:@][A-Za-z0-9_.+:@-]*$`)

// seconds are decimal for everybody: 010 is eight in a shell.
var seconds = text.Pattern(`^[1-9][0-9]{0,7}$`)

func isWord(value string) bool    { return word().MatchString(value) }
func isSeconds(value string) bool { return seconds().MatchString(value) }

func isEvery(value string) bool {
	_, err := text.ParseEvery(value)
	return err == nil
}

func isSize(value string) bool {
	n, err := text.ParseSize(value)
	return err == nil && n > 0
}

func isBlockSize(value string) bool {
	n, err := text.ParseSize(value)
	return err == nil && stream.CheckBlockSize(n) == nil
}

func isKeep(value string) bool {
	_, err := state.ParseKeep(value)
	return err == nil
}

func oneOf(words ...string) func(string) bool {
	return func(value string) bool { return slices.Contains(words, value) }
}

// Conf is a conf file without a mistake.
type Conf struct {
	Number int // of all conf files, mistakes or not
	values map[string]string
}

// DomU is the DomU that it is for.
func (c *Conf) DomU() string { return c.values["DOMU"] }

// Dom0s are the hosts that keep its image.
func (c *Conf) Dom0s() []string { return strings.Fields(c.values["DOM0S"]) }

// Exclude are the disks that are not copied.
func (c *Conf) Exclude() []string { return strings.Fields(c.values["EXCLUDE"]) }

// Rules are those of MAP.
func (c *Conf) Rules() []string { return strings.Fields(c.values["MAP"]) }

// CreateLV is the volume group in which missing standbys are made; "": none are.
func (c *Conf) CreateLV() string { return c.values["CREATE_LV"] }

// XLConfig returns xl's configuration file of the DomU, "" for the usual one.
func (c *Conf) XLConfig() string { return c.values["XL_CONFIG"] }

// newConf takes the values as bash has them: several of an array.
func newConf(number int, values map[string][]string) *Conf {
	c := &Conf{number, make(map[string]string)}
	for _, s := range settings {
		switch value := strings.Join(values[s.name], " "); {
		case s.list:
			c.values[s.name] = strings.Join(strings.FieldsFunc(value, isBlank), " ")
		case s.means != nil:
			c.values[s.name] = strings.TrimFunc(value, isBlank)
		default:
			c.values[s.name] = value
		}
		if c.values[s.name] == "" {
			c.values[s.name] = s.fallback
		}
	}
	return c
}

// isBlank is what bash takes words apart at. A carriage return is none.
func isBlank(c rune) bool { return c == ' ' || c == '\t' || c == '\n' }

// check refuses what would else be found out late, or never.
func (c *Conf) check() error {
	if err := checkName(c.DomU()); err != nil {
		return err
	}
	if c.values["DOM0S"] == "" {
		return errors.New("DOM0S names no Dom0")
	}
	for _, s := range settings {
		if s.means == nil || c.values[s.name] == "" {
			continue
		}
		values := []string{c.values[s.name]}
		if s.list {
			values = strings.Split(values[0], " ")
		}
		for _, value := range values {
			if !s.means(value) {
				return fmt.Errorf("bad %s: %s", s.name, ascii(value))
			}
		}
	}
	return nil
}

func checkName(domu string) error {
	switch {
	case !isWord(domu):
		return fmt.Errorf("bad or missing name in DOMU: '%s'", ascii(domu))
	case strings.Trim(domu, "0123456789") == "":
		// virsh and xl would take it for the id of a domain, perhaps of another one.
		return fmt.Errorf("a DomU whose name is a number cannot be told from others: %s", domu)
	}
	return nil
}

// Write writes all settings to the file DIR/NUMBER, which a shell can source: whatever is in a value, it is
// one word there.
func (c *Conf) Write(dir string) error {
	var lines strings.Builder
	for _, s := range settings {
		fmt.Fprintf(&lines, "%s=%s\n", s.name, quote(c.values[s.name]))
	}
	// It is for this run alone: nothing is synced.
	if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(c.Number)), []byte(lines.String()), 0o600); err != nil {
		return exit.Fail(exit.CantCreate, "cannot keep the settings of %s: %w", c.DomU(), err)
	}
	return nil
}

func quote(value string) string { return "'" + strings.ReplaceAll(value, "'", `'\''`) + "'" }
