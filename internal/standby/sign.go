package standby

import (
	"errors"
	"io"
	"os"
	"path/filepath"

	"xen-backup/internal/allow"
	"xen-backup/internal/blockdev"
	"xen-backup/internal/dm"
	"xen-backup/internal/exit"
	"xen-backup/internal/pace"
	"xen-backup/internal/rdiff"
	"xen-backup/internal/state"
	"xen-backup/internal/stream"
	"xen-backup/internal/text"
)

// Basis is a target that is signed, for a delta to be made against it. It takes no lock,
// because the run that will write to it has that already, and judges nothing but that the
// target is no mix: whether it may be overwritten is for that run to say.
type Basis struct {
	rdiff.Source
	file    *blockdev.File // nil: the target does not exist yet
	device  *state.Device
	witness string // from before the first read
}

// BasisOptions say what is to be signed.
type BasisOptions struct {
	Target    string
	StateDir  string
	Size      int64 // bytes; negative: all of a file, and of a device the image of its last sync
	MissingOK bool  // a target that does not exist has a size of 0
	Pace      *pace.Pace
	Allow     *allow.Rules // what the peer may touch; nil: anything
}

// OpenBasis opens a target to be signed.
func OpenBasis(o BasisOptions) (*Basis, error) {
	if err := o.Allow.Path(o.Target, ""); err != nil {
		return nil, err
	}
	file, err := blockdev.Open(o.Target)
	if exit.StatusOf(err) == exit.NoInput && o.MissingOK && isMissing(o.Target) {
		return missingBasis(o, err)
	}
	if err != nil {
		return nil, err
	}
	file.SetPace(o.Pace)
	b := &Basis{file: file}
	if err = o.Allow.Open(file.OS(), ""); err == nil {
		err = b.limit(o)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	b.Source, b.witness = rdiff.FromImage(file), file.Witness(file.Size())
	return b, nil
}

// limit looks up the device's state, and has only the image be read: what a device has
// behind it is not ours.
func (b *Basis) limit(o BasisOptions) error {
	device, record, err := loadBasis(o, b.file)
	if err != nil {
		return err
	}
	b.device = device
	switch {
	case o.Size >= 0:
		return b.file.Limit(o.Size)
	case b.file.IsBlock():
		return b.limitToImage(record)
	}
	return nil
}

// limitToImage has only the image of the device's last sync read, whichever way it went.
func (b *Basis) limitToImage(record *state.Record) error {
	sent, err := b.device.Sent()
	if err != nil {
		return err
	}
	last := record
	for _, r := range sent {
		if last.Phase != state.Clean || r.Time.After(last.Time) {
			last = r
		}
	}
	if last.Phase != state.Clean {
		return nil
	}
	if last == record {
		return b.file.Limit(last.Image.Size)
	}
	return b.file.Limit(min(last.Image.Size, b.file.Size())) // it was larger when it was sent
}

func missingBasis(o BasisOptions, missing error) (*Basis, error) {
	if _, _, volume := dm.PathOfVolume(o.Target); blockdev.BelowDev(o.Target) && !volume {
		return nil, missing
	}
	if _, err := os.Stat(filepath.Dir(o.Target)); err == nil {
		if _, _, err := loadBasis(o, nil); err != nil {
			return nil, err
		}
	}
	return &Basis{Source: rdiff.FromImage(noImage{})}, nil
}

// loadBasis returns what is remembered of a target, unless that is an apply to be finished. file is the target, if it
// exists.
func loadBasis(o BasisOptions, file *blockdev.File) (*state.Device, *state.Record, error) {
	identity, err := blockdev.Identity(o.Target)
	if err == nil && file != nil {
		err = errors.Join(file.CheckIdentity(identity), file.CheckName(identity))
	}
	if err != nil {
		return nil, nil, err
	}
	device := state.Dir(o.StateDir).Device(identity, o.Target)
	record, err := device.Load()
	if err == nil && record.Phase == state.Applying {
		err = exit.Fail(exit.Unfinished, "%s: an apply is unfinished; finish it first: xb-patch --recover %s",
			o.Target, text.Operand(o.Target))
	}
	return device, record, err
}

// Check demands that what was read is no snapshot that was lost meanwhile. It must be
// asked after the last read.
func (b *Basis) Check() error {
	if b.file == nil {
		return nil
	}
	return b.file.CheckSnapshot()
}

// Remember records that the target holds that image, unless somebody wrote to it while it
// was read. It is a hint for the run that will write to it, which need not read it again:
// if it cannot be recorded, nothing is lost.
func (b *Basis) Remember(image stream.Image) error {
	if b.file == nil || !blockdev.Untouched(b.witness, b.file.Witness(b.file.Size())) {
		return nil
	}
	return b.device.SaveSeen(&state.Record{Image: image, Witness: b.witness})
}

// Close closes the target.
func (b *Basis) Close() {
	if b.file != nil {
		b.file.Close()
	}
}

// noImage is a target that does not exist yet.
type noImage struct{}

func (noImage) Size() int64                                { return 0 }
func (noImage) Readers() int                               { return 1 }
func (noImage) ReadRanges([]blockdev.Range) error          { return nil }
func (noImage) ReadAt([]byte, int64) (int, error)          { return 0, io.EOF }
func (noImage) NextData(int64) (start, end int64, _ error) { return 0, 0, nil }
