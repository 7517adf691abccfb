package state

import (
	"encoding/json"
	"time"

	"xen-backup/internal/stream"
)

// Phase tells what the content of a device is.
type Phase string

const (
	None       Phase = "none"       // nothing is known
	Seen       Phase = "seen"       // xb-sig read it, nothing was ever applied
	Incomplete Phase = "incomplete" // a first copy in place did not end: a mix
	Applying   Phase = "applying"   // a spooled delta is being applied: a mix until it is finished
	Clean      Phase = "clean"      // exactly the image of the last sync
)

// Record is what is remembered of a device.
type Record struct {
	Phase    Phase
	Identity string
	Device   string       // the path it was last named by
	Disk     string       // whose standby it is: DOMU/DISK
	UUID     string       // of that DomU, where its toolstack keeps one
	Image    stream.Image // the device may be larger; the zero Image: it holds none that is known
	Time     time.Time
	Peer     string    // the other host of the last sync
	Spool    string    // of phase applying: the delta
	Witness  string    // of the device when it had this content
	Taken    time.Time // when the source took the image, as it says; of a set, see Set
	Set      *Set      // that the image came in; nil: it was copied alone
	NoPoint  string    // why no point in time was made of the image before, which was wanted
	Created  bool      // of phase incomplete: xb-patch made the device, and no image was ever whole there
	Last     *Last     // of phases incomplete and applying: the last image that was whole; nil: there was none
}

// Last tells of when the last image was that a device held whole.
type Last struct {
	Time  time.Time `json:"time"`
	Taken time.Time `json:"taken,omitzero"` // when the source took its snapshot, if it came in a set
	stream.ImageFields
}

// lastWhole returns the last image that is known to have been whole.
func (r *Record) lastWhole() *Last {
	if r.Phase != Clean {
		return r.Last
	}
	return &Last{Time: r.Time, Taken: r.TakenAt(), ImageFields: r.Image.Fields()}
}

// TakenAt returns when the source took the image, as it says; the zero time if it does not.
func (r *Record) TakenAt() time.Time {
	if r.Set != nil {
		return r.Set.Taken
	}
	return r.Taken
}

// Of returns of when the image is: of when it was taken, or else of when it came. The clock of the source's host may go
// before this one's: no image is younger than its sync.
func (r *Record) Of() time.Time {
	if taken := r.TakenAt(); !taken.IsZero() && taken.Before(r.Time) {
		return taken
	}
	return r.Time
}

// After has a mix tell of the last image that was whole, by what was remembered before.
func (r *Record) After(before *Record) {
	if r.Phase == Incomplete || r.Phase == Applying {
		r.Last = before.lastWhole()
	}
}

const version = 1

// Fields are a record as it stands in its file.
type Fields struct {
	Version  int    `json:"version,omitempty"`
	Phase    Phase  `json:"phase"`
	Identity string `json:"identity,omitempty"`
	Device   string `json:"device,omitempty"`
	Disk     string `json:"disk,omitempty"`
	UUID     string `json:"uuid,omitempty"`
	stream.ImageFields
	Time    time.Time `json:"time,omitzero"`
	Peer    string    `json:"peer,omitempty"`
	Spool   string    `json:"spool,omitempty"`
	Witness string    `json:"witness,omitempty"`
	SetFields
	Created bool   `json:"created,omitempty"`
	Last    *Last  `json:"last,omitempty"`
	NoPoint string `json:"no_point,omitempty"`
}

// Fields returns the record as it is written. One that was never saved or loaded has no
// version.
func (r *Record) Fields() Fields {
	f := Fields{0, r.Phase, r.Identity, r.Device, r.Disk, r.UUID, r.Image.Fields(), r.Time, r.Peer, r.Spool, r.Witness,
		r.Set.fields(), r.Created, r.Last, r.NoPoint}
	if r.Set == nil {
		f.Taken = r.Taken
	}
	if r.Identity != "" {
		f.Version = version
	}
	return f
}

// record returns the record that was written, and says why it has no image.
func (f *Fields) record() (r *Record, noImage error) {
	image, noImage := f.Image()
	return &Record{f.Phase, f.Identity, f.Device, f.Disk, f.UUID, image, f.Time, f.Peer, f.Spool, f.Witness,
		f.Taken, f.set(), f.NoPoint, f.Created, f.Last}, noImage
}

func (r Record) MarshalJSON() ([]byte, error) { return json.Marshal(r.Fields()) }
