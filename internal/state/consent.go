package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
	"xen-backup/internal/stream"
)

// Consent is what the administrator of a host says of a device there that has diverged: the changes on it, which exist
// nowhere else, may be lost. It lets one delta pass, of one disk from one peer, onto just what the device held then.
// Its file is none that an xen-backup looks at which knows no consents.
type Consent struct {
	Version  int          `json:"version"`
	Identity string       `json:"identity"`
	Peer     string       `json:"peer,omitempty"`
	Disk     string       `json:"disk"`
	Image    stream.Image `json:"image"` // what will be lost
	By       string       `json:"by"`    // whose consent it is
	Given    time.Time    `json:"given"`
	Boot     string       `json:"boot"`   // in which it was given
	Uptime   float64      `json:"uptime"` // and when: the kernel's CLOCK_BOOTTIME, in seconds
	Before   Fields       `json:"before"` // what was remembered of the device
}

// consentLasts is for how long a consent is one: whoever gave it remembers what it was about.
const consentLasts = 24 * time.Hour

// Until returns when the consent ends by itself.
func (c *Consent) Until() time.Time { return c.Given.Add(consentLasts) }

// Expired says in words why a consent is none any more, or not yet; "" if it is one. A clock that is set back does not
// prolong it: one from the future is none, and within one boot the kernel's own clock counts, too.
func (c *Consent) Expired() string {
	age := time.Since(c.Given)
	if c.Boot != "" && c.Boot == bootID() {
		age = max(age, time.Duration((uptime()-c.Uptime)*float64(time.Second)))
	}
	switch {
	case time.Now().Before(c.Given):
		return "it is from the future: was the clock set back?"
	case age > consentLasts:
		return "it was good for a day"
	}
	return ""
}

// IsOf reports whether the device's record still is the one that the consent was given for. It is not any more once a
// delta has been applied, so that no second one can pass, even if the consent stays behind.
func (c *Consent) IsOf(now *Record) bool {
	a, err := json.Marshal(c.Before)
	b, nowErr := json.Marshal(now)
	return err == nil && nowErr == nil && bytes.Equal(a, b)
}

func (d *Device) consentFile() string { return d.file(".consent") }

// SaveConsent makes c the consent for the device as it is remembered now, durably.
func (d *Device) SaveConsent(c *Consent, now *Record) error {
	c.Version, c.Identity, c.Before = version, d.identity, now.Fields()
	c.Given, c.Boot, c.Uptime = time.Now().UTC().Truncate(time.Second), bootID(), uptime()
	return d.note(d.consentFile(), c)
}

// Consent returns the consent that was given for the device; nil if there is none.
func (d *Device) Consent() (*Consent, error) {
	text, err := durable.ReadSmall(d.consentFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var c Consent
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	if err == nil && (c.Version != version || c.Identity != d.identity || c.Image == (stream.Image{}) || c.Disk == "") {
		err = errors.New("it is of another version or device")
	}
	if err != nil {
		return nil, exit.Fail(exit.Config, "the consent %s cannot be used: %w", d.consentFile(), err)
	}
	return &c, nil
}

// RemoveConsent forgets the consent. That need not be durable: IsOf and Expired hold against one that comes back.
func (d *Device) RemoveConsent() { os.Remove(d.consentFile()) }

// String names what the consent is about, and who gave it.
func (c *Consent) String() string {
	return fmt.Sprintf("the consent of %s from %s", c.By, c.Given.Format("2006-01-02 15:04:05 MST"))
}

func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}
