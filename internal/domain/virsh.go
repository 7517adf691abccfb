package domain

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"xen-backup/internal/exit"
	"xen-backup/internal/program"
	"xen-backup/internal/text"
)

var uuidForm = text.Pattern(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)

// hostUUID is that of Domain-0, the host itself.
const hostUUID = "00000000-0000-0000-0000-000000000000"

// idForm is what virsh takes for a domain's id before it thinks of a name.
var idForm = text.Pattern(`^\s*[-+]?[0-9]+$`)

// virsh asks libvirt.
type virsh struct {
	URI     string
	timeout time.Duration
}

// newVirsh returns libvirt at a connection URI, "" for virsh's default.
func newVirsh(uri string) *virsh { return &virsh{uri, patience} }

func (v *virsh) Name() string { return "virsh" }

func (v *virsh) run(ctx context.Context, args ...string) ([]byte, error) {
	if v.URI != "" {
		args = append([]string{"--connect=" + v.URI}, args...)
	}
	return program.Ask(ctx, v.timeout, "virsh", args...)
}

// volumePath returns the path of a storage volume.
func (v *virsh) volumePath(ctx context.Context, pool, volume string) (string, error) {
	out, err := v.run(ctx, "vol-path", "--pool="+pool, "--vol="+volume)
	return strings.TrimRight(string(out), "\n"), err
}

// virshListing is libvirt's list of all domains, by which one that it does not know is
// told from a libvirt that can't be asked.
type virshListing struct {
	*virsh
	text string // lines "UUID NAME"
}

// List reads the list of all domains.
func (v *virsh) List(ctx context.Context) (Listing, error) {
	out, err := v.run(ctx, "list", "--all", "--uuid", "--name")
	if err != nil {
		return nil, err
	}
	if len(out) == 0 { // with no domains it prints an empty line
		return nil, exit.Fail(exit.Unavailable, "virsh list prints nothing")
	}
	return &virshListing{v, string(out)}, nil
}

// Ask needs libvirt again only for a domain in the list.
func (v *virshListing) Ask(ctx context.Context, name string) (Answer, error) {
	a := Answer{Toolstack: v.Name(), State: "not defined"}
	ref := findInList(v.text, name)
	if ref == "" {
		return a, nil // also while it reboots libvirt has it in its list
	}
	// One virsh for both: each takes longer than its answer. The status is that of the last command.
	word := commandWord(ref)
	text, err := v.run(ctx, "dumpxml --domain "+word+"; domstate --reason --domain "+word)
	if err != nil {
		return vanished(a, err)
	}
	document, state := splitDocument(string(text))
	d, err := parseXML(strings.NewReader(document))
	if err != nil {
		return a, exit.Fail(exit.Unavailable, "virsh dumpxml: %w", err)
	}
	if idForm().MatchString(ref) && d.ID != strings.TrimSpace(ref) {
		return a, nil // no id of a domain that is here
	}
	a.Domain = d
	a.State = strings.TrimSpace(state)
	if err := a.judgeVirsh(); err != nil || a.Active {
		return a, err
	}
	// The reason "saved" tells less: it is lost when libvirt is restarted, and
	// `virsh save FILE` gives it, too.
	info, err := v.run(ctx, "dominfo", "--domain="+ref)
	if err != nil {
		return vanished(a, err)
	}
	switch saved := infoField(string(info), "Managed save"); saved {
	case "no":
	case "yes":
		a.Saved = "by virsh managedsave: start it and shut it down, " +
			"or give the memory up with virsh managedsave-remove " + d.Name
	default: // "unknown"
		return a, exit.Fail(exit.Unavailable, "virsh dominfo tells Managed save: %q", saved)
	}
	return a, nil
}

// commandWord returns what virsh, where it takes several commands in one word, takes for this one.
func commandWord(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// splitDocument parts a document from what is printed after it.
func splitDocument(text string) (document, rest string) {
	const end = "</domain>\n"
	if i := strings.LastIndex(text, end); i >= 0 {
		return text[:i+len(end)], text[i+len(end):]
	}
	return text, ""
}

// stuck reports whether libvirt has paused a domain because it could not write to a disk. Of one that it does not
// know, or if it cannot be asked, there is nothing to tell.
func (v *virsh) stuck(ctx context.Context, name string) bool {
	state, err := v.run(ctx, "domstate", "--reason", "--domain="+name)
	return err == nil && strings.TrimSpace(string(state)) == "paused (I/O error)"
}

// Knows needs no question. Of an id nothing is known for long.
func (v *virshListing) Knows(name string) bool {
	return !idForm().MatchString(name) && findInList(v.text, name) != ""
}

// Documents asks for many at once: each virsh takes longer than its answer.
func (v *virshListing) Documents(ctx context.Context) (all []*Domain, err error) {
	const atOnce = 100
	var uuids []string
	for line := range strings.Lines(v.text) {
		uuid, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if uuidForm().MatchString(uuid) && uuid != hostUUID {
			uuids = append(uuids, uuid)
		}
	}
	for some := range slices.Chunk(uuids, atOnce) {
		var commands strings.Builder
		for _, uuid := range some {
			fmt.Fprintf(&commands, "dumpxml --domain %s; dumpxml --inactive --domain %s; ", uuid, uuid)
		}
		text, err := v.run(ctx, commands.String())
		if err != nil {
			return nil, err
		}
		domains, err := parseXMLs(text)
		if err != nil {
			return nil, exit.Fail(exit.Unavailable, "virsh dumpxml: %w", err)
		}
		if len(domains) != 2*len(some) { // the status is that of the last command
			return nil, exit.Fail(exit.Unavailable, "virsh dumpxml prints %d documents of %d domains", len(domains), len(some))
		}
		all = append(all, domains...)
	}
	return all, nil
}

// Document asks for what the next start uses: the definition, or of a domain that has
// none what it runs with, which --inactive gives, too. Both without --security-info lack
// passwords: a console that had one would be open to everybody.
func (v *virshListing) Document(ctx context.Context, name string, a Answer) (*Document, error) {
	ref := findInList(v.text, name)
	if ref == "" || a.Domain == nil {
		return nil, fs.ErrNotExist
	}
	text, err := v.run(ctx, "dumpxml", "--security-info", "--inactive", "--domain="+ref)
	if err != nil {
		return nil, err
	}
	d, err := readDocument(bytes.NewReader(text))
	if err != nil {
		return nil, exit.Fail(exit.Unavailable, "virsh dumpxml: %w", err)
	}
	return d, nil
}

// infoField returns the value of a line "NAME:   VALUE".
func infoField(text, name string) string {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// hasSecret reports whether libvirt keeps a secret.
func (v *virsh) hasSecret(ctx context.Context, s Secret) (bool, error) {
	out, err := v.run(ctx, "secret-list")
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(out)) {
		uuid, usage, _ := strings.Cut(strings.TrimSpace(line), " ")
		kind, usage, _ := strings.Cut(strings.TrimSpace(usage), " ")
		if s.UUID != "" && strings.EqualFold(uuid, s.UUID) || s.UUID == "" && usage == s.Usage && kind == s.Type {
			return true, nil
		}
	}
	return false, nil
}

// findInList searches the lines "UUID NAME" of virsh for a domain. It returns the
// word by which virsh will take it for the same: its name, unless virsh would take
// that for an id or a UUID. An id is in no list and is returned as it is.
func findInList(list, name string) (ref string) {
	if idForm().MatchString(name) {
		ref = strings.TrimSpace(name)
	}
	for line := range strings.Lines(list) {
		uuid, other, _ := strings.Cut(strings.TrimSpace(line), " ")
		other = strings.TrimSpace(other)
		word := other
		if idForm().MatchString(word) || uuidForm().MatchString(word) {
			word = uuid
		}
		switch {
		case other != "" && other == name:
			return word
		case sameUUID(uuid, name):
			ref = word
		}
	}
	return ref
}

// sameUUID reports whether name is a UUID, with hyphens or without.
func sameUUID(uuid, name string) bool {
	return strings.EqualFold(uuid, name) || len(name) == 32 && strings.EqualFold(strings.ReplaceAll(uuid, "-", ""), name)
}

// vanished judges the failure of a question about a domain that was there when
// the list was read: either it is gone, or libvirt can't be asked any more.
func vanished(a Answer, err error) (Answer, error) {
	if strings.Contains(err.Error(), "failed to get domain") {
		a.Restless = true
		return a, nil
	}
	return a, err
}

// judgeVirsh sets the answer by the state and reason that virsh prints, which
// are named in virsh-domain-monitor.c.
func (a *Answer) judgeVirsh() error {
	state, reason, _ := strings.Cut(strings.TrimSuffix(a.State, ")"), " (")
	hasID := a.Domain.ID != ""
	xen := a.Domain.Type == "xen"
	a.Doubtful = xen // libvirt destroys such a domain and makes it anew
	switch {
	case xen && a.Domain.ID == "0":
		a.State = "Domain-0, the host itself"
		return nil
	case isHalf(a.Domain.Name), reason == "migrating", state == "paused" && strings.HasPrefix(reason, "post-copy"):
		a.Half = true
		return nil
	case reason == "starting up": // or waits for a migration to arrive
		a.Restless = true
		return nil
	case state == "paused" && reason == "crashed":
		return nil
	}
	switch state {
	case "running", "idle", "paused", "in shutdown", "pmsuspended", "no state":
		// Without an id the document is older or newer than the state.
		a.Active, a.Restless = hasID, !hasID
	case "shut off", "crashed", "dying":
		// With an id Xen still has it: it is on its way down, or up again.
		a.Restless = hasID && xen
	default:
		return exit.Fail(exit.Unavailable, "virsh domstate prints %.60q", a.State)
	}
	return nil
}
