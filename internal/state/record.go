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
	Peer     string // the other host of the last sync
	Spool    string // of phase applying: the delta
	Witness  string // of the device when it had this content
	Set      *Set   // that the image came in; nil: it was copied alone
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
}

// Fields returns the record as it is written. One that was never saved or loaded has no
// version.
func (r *Record) Fields() Fields {
	f := Fields{0, r.Phase, r.Identity, r.Device, r.Disk, r.UUID, r.Image.Fields(), r.Time, r.Peer, r.Spool, r.Witness,
		r.Set.fields()}
	if r.Identity != "" {
		f.Version = version
	}
	return f
}

// record returns the record that was written, and says why it has no image.
func (f *Fields) record() (r *Record, noImage error) {
	image, noImage := f.Image()
	return &Record{f.Phase, f.Identity, f.Device, f.Disk, f.UUID, image, f.Time, f.Peer, f.Spool, f.Witness,
		f.set()}, noImage
}

func (r Record) MarshalJSON() ([]byte, error) { return json.Marshal(r.Fields()) }
