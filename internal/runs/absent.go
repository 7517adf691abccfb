package runs

import (
	"slices"
	"strings"
	"time"

	"xen-backup/internal/blockdev"
	"xen-backup/internal/domain"
	"xen-backup/internal/standby"
	"xen-backup/internal/state"
)

// judgeShutOff judges a DomU whose disks are here, and that does not run here any more: by what this host has sent, and
// it says whether that is all that was ever written.
func (v *Verdict) judgeShutOff(e *Expected) {
	disks := v.sentDisks(e)
	if len(disks) == 0 {
		v.say(e.DomU, Failing, "it does not run here, and was copied to none of DOM0S")
		return
	}
	v.judgeSource(e, disks)
	final, known := true, true
	for _, peer := range e.Peers {
		for _, disk := range disks {
			c, _ := v.find(e.DomU+"/"+disk, peer)
			if c == nil || c.Success == nil || !c.Success.Final {
				final = false
				continue
			}
			written, told := blockdev.Changed(c.Success.Witness, Witness(c.Source, c.Success.Size))
			final, known = final && !(written && told), known && told
		}
	}
	switch {
	case !final:
		v.say(e.DomU, Good, "it does not run here, and was copied while it ran, or written to since: what it wrote after that is "+
			"only here. xen-backup.sh --final %s copies it", e.DomU)
	case !known:
		v.say(e.DomU, Good, "it does not run here, and was copied after it was shut off; whether it was written to since cannot "+
			"be told, for this host was booted since, or a snapshot of it is gone: xen-backup.sh --final %s makes sure", e.DomU)
	default:
		v.say(e.DomU, Good, "it does not run here, and was copied after it was shut off: nothing was written to it since")
	}
}

// judgeStandby judges a DomU by the images that this host has got.
func (v *Verdict) judgeStandby(e *Expected) {
	document, documentErr := standby.NowOf(v.list.Holdings, e.DomU).Domain(v.list.dir)
	disks := v.heldDisks(e.DomU, document)
	if documentErr != nil {
		v.say(e.DomU, Unknown, "whether these are all its disks cannot be told, nor can it be started from them: %v", documentErr)
	}
	var good []*standby.Holding
	for _, disk := range disks {
		h := newest(v.list.Holdings, e.DomU+"/"+disk)
		if v.judgeHolding(e.DomU, disk, h) {
			good = append(good, h)
		}
	}
	if len(good) == len(disks) {
		v.judgeSet(e.DomU, good, documentErr == nil)
	}
}

// heldDisks returns the disks that a DomU must have here: those of its document, and those of the set that came last. One
// that is in neither is left out of the copies by now; without a document none is.
func (v *Verdict) heldDisks(domu string, document *domain.Domain) (disks []string) {
	add := func(disk string) {
		if !slices.Contains(disks, disk) {
			disks = append(disks, disk)
		}
	}
	if document != nil {
		for _, disk := range document.Copied() {
			add(disk)
		}
	}
	var last *state.Record
	for _, h := range v.list.Holdings {
		name, isOne := strings.CutPrefix(h.Disk, domu+"/")
		if !isOne {
			continue
		}
		if document == nil {
			add(name)
		}
		if h.Record != nil && (last == nil || h.Record.Time.After(last.Time)) {
			last = h.Record
		}
	}
	if last != nil && last.Set != nil {
		for _, m := range last.Set.Members {
			if name, isOne := strings.CutPrefix(m.Disk, domu+"/"); isOne {
				add(name)
			}
		}
	}
	return disks
}

// judgeHolding judges one disk, and reports whether it is a whole image.
func (v *Verdict) judgeHolding(domu, disk string, h *standby.Holding) bool {
	if h == nil && v.hasUnreadable() {
		v.say(domu, Unknown, "%s was never copied here, or what is remembered of it is what cannot be read", disk)
		return false
	}
	if h == nil {
		v.say(domu, Failing, "%s was never copied here", disk)
		return false
	}
	if h.Err != nil {
		v.say(domu, Unknown, "%s: %v", disk, h.Err)
		return false
	}
	last := "no whole image was ever here"
	if of := h.Of(); !of.IsZero() {
		last = "the last whole image was of " + of.UTC().Format(timeForm)
	}
	device := h.Record.Device
	switch {
	case h.Record.Phase == state.Applying:
		v.say(domu, Failing, "%s is between two images, and %s; xb-patch --recover %s finishes it", disk, last, device)
	case h.Record.Phase != state.Clean:
		v.say(domu, Failing, "%s is a part of an image, and %s; the next run of its Dom0 completes it", disk, last)
	case h.Missing:
		v.say(domu, Failing, "%s is missing, or something else has its name: is its file system mounted, its volume group active?", device)
	case h.Changed != nil && *h.Changed:
		v.say(domu, Failing, "%s was changed since it was copied (%s): it is no copy any more. If that can go, "+
			"xb-patch --discard-changes %s", device, last, device)
	case v.isFuture(h.Record.Time):
		v.say(domu, Unknown, "%s was copied in the future, at %s: is the clock right?", disk, h.Record.Time.Format(timeForm))
	default:
		v.judgeAge(domu, disk+" here", h.Of())
		return true
	}
	return false
}

// hasUnreadable reports whether there is a state of which nobody knows whose it is.
func (v *Verdict) hasUnreadable() bool {
	return slices.ContainsFunc(v.list.Holdings, func(h standby.Holding) bool { return h.Disk == "" && h.Err != nil })
}

// judgeSet judges whether the disks, and the document, are of one moment.
func (v *Verdict) judgeSet(domu string, disks []*standby.Holding, documented bool) {
	if len(disks) == 0 {
		v.say(domu, Failing, "it has no disk here")
		return
	}
	set, one := "", true
	for i, h := range disks {
		now := ""
		if h.Record.Set != nil {
			now = h.Record.Set.ID
		}
		if i == 0 {
			set = now
		}
		one = one && now == set && (h.WholeSet == nil || *h.WholeSet) && (len(disks) == 1 || h.WholeSet != nil)
	}
	switch {
	case !one:
		v.say(domu, Failing, "its disks here are not of one moment: %s. The next run of its Dom0 copies them together", moments(disks))
	case documented && set != "" && disks[0].DocumentSet != set:
		v.say(domu, Old, "the document by which it would be started here is not of the copy of its disks: the next run of its Dom0 brings it")
	}
}

func moments(disks []*standby.Holding) string {
	var each []string
	for _, h := range disks {
		_, name, _ := strings.Cut(h.Disk, "/")
		each = append(each, name+" of "+h.Of().UTC().Format(time.RFC3339))
	}
	return strings.Join(each, ", ")
}
