package inuse

import (
	"strconv"
	"strings"
)

// Mount is one line of a mountinfo.
type Mount struct {
	ID     string // as statx(2) gives it for a file
	Number string // MAJOR:MINOR of the file system; btrfs and others have one of their own making, 0:N
	Point  string
	Source string // for those alone it tells the device
}

// ParseMountinfo reads a mountinfo (proc(5)):
//
//	36 35 98:0 /root /mnt1 rw master:1 - ext3 /dev/root rw
func ParseMountinfo(text string) (mounts []Mount) {
	for line := range strings.Lines(text) {
		mount, super, _ := strings.Cut(line, " - ")
		fields, source := strings.Fields(mount), strings.Fields(super)
		if len(fields) >= 5 && len(source) >= 2 {
			mounts = append(mounts, Mount{fields[0], fields[2], unescape(fields[4]), unescape(source[1])})
		}
	}
	return mounts
}

// unescape undoes the \040 of the kernel's tables.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
