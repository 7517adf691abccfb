// Device numbers, and what sysfs has of a device.

package dm

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Major returns a part of a device number as stat(2) gives it. The kernel's numbers have 12 bits of major and 20 of
// minor (include/linux/kdev_t.h).
func Major(rdev uint64) uint64 { return rdev >> 8 & 0xfff }

func minor(rdev uint64) uint64 { return rdev&0xff | rdev>>12&0xfff00 }

// MajorMinor formats a device number as sysfs does: "253:0".
func MajorMinor(rdev uint64) string { return fmt.Sprintf("%d:%d", Major(rdev), minor(rdev)) }

// ParseMajorMinor reads "253:0" as in sysfs (base 10) or "fd:0" as in xenstore (16).
func ParseMajorMinor(s string, base int) (rdev uint64, err error) {
	a, b, _ := strings.Cut(s, ":")
	major, err := strconv.ParseUint(a, base, 12)
	if err != nil {
		return 0, err
	}
	minor, err := strconv.ParseUint(b, base, 20)
	return minor&0xff | major<<8 | minor&^0xff<<12, err
}

// SysDir returns the folder of a device in sysfs.
func SysDir(rdev uint64) string { return "/sys/dev/block/" + MajorMinor(rdev) }

// ReadLine returns the text of a small file of the kernel without the newline, and "" if it can't be read.
func ReadLine(path string) string {
	text, _ := os.ReadFile(path)
	return strings.TrimSuffix(string(text), "\n")
}

// Exists reports whether there is anything at path, if only a link that leads nowhere.
func Exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// DiskName names a device for good: a dm device by its UUID, another one by its number and by what tells apart
// those that had this number one after another.
func DiskName(rdev uint64) string {
	sys := SysDir(rdev)
	if uuid := ReadLine(sys + "/dm/uuid"); uuid != "" {
		return uuid
	}
	disk := sys
	if Exists(sys + "/partition") {
		disk = sys + "/.."
	}
	return fmt.Sprintf("%s,%s,%s,%s,%s", MajorMinor(rdev), ReadLine(sys+"/start"), ReadLine(disk+"/diskseq"),
		ReadLine(disk+"/loop/backing_file"), ReadLine(disk+"/loop/offset"))
}
