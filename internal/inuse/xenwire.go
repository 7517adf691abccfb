// xenstore: "no such entry" is an answer, everything else that is no value is an error.

package inuse

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

// xenstore is a connection to xenstored. It is spoken to directly since it is the only way that has one answer for
// "no such entry" and another for "cannot ask": xenstore-ls has status 1 for both, and need not be installed.
//
// A request and its reply each are a header of four integers in the machine's byte order (type, request, transaction,
// length of what follows) and up to 4096 bytes (docs/misc/xenstore.txt and xen/include/public/io/xs_wire.h in Xen).
type xenstore struct {
	connection
	request uint32
}

type connection interface {
	io.ReadWriteCloser
	SetDeadline(time.Time) error
}

const (
	xsDirectory  = 1
	xsRead       = 2
	xsError      = 16
	xsMaxPayload = 4096
)

// dialXenstore connects to the first of paths that can be: a daemon's socket, or
// a device by which the kernel passes requests on to wherever xenstored runs. All
// requests together may take 5 s, as nobody answers the device if the daemon died.
func dialXenstore(paths []string) (*xenstore, error) {
	cause := fmt.Errorf("none of %s: %w", strings.Join(paths, ", "), os.ErrNotExist)
	for _, path := range paths {
		c, err := dialXenstorePath(path)
		if err == nil {
			c.SetDeadline(time.Now().Add(5 * time.Second))
			return &xenstore{connection: c}, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			cause = err
		}
	}
	return nil, cause
}

func dialXenstorePath(path string) (connection, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case info.Mode()&os.ModeSocket != 0:
		return net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	}
	return os.OpenFile(path, os.O_RDWR, 0)
}

// directory lists the entries below path; none if there is no such path. A path
// without a leading slash is below this domain's own /local/domain/ID.
func (x *xenstore) directory(path string) ([]string, error) {
	text, err := x.ask(xsDirectory, path)
	if text = strings.TrimSuffix(text, "\x00"); text == "" {
		return nil, err
	}
	return strings.Split(text, "\x00"), err
}

// read returns the value at path, "" if there is none.
func (x *xenstore) read(path string) (string, error) { return x.ask(xsRead, path) }

func (x *xenstore) ask(kind uint32, path string) (string, error) {
	x.request++
	body := path + "\x00"
	message := make([]byte, 0, 16+len(body))
	for _, v := range []uint32{kind, x.request, 0, uint32(len(body))} {
		message = binary.NativeEndian.AppendUint32(message, v)
	}
	if _, err := x.Write(append(message, body...)); err != nil {
		return "", err
	}
	var header [16]byte
	if _, err := io.ReadFull(x, header[:]); err != nil {
		return "", err
	}
	answered := binary.NativeEndian.Uint32(header[0:])
	request := binary.NativeEndian.Uint32(header[4:])
	length := binary.NativeEndian.Uint32(header[12:])
	if request != x.request || answered != kind && answered != xsError || length > xsMaxPayload {
		return "", fmt.Errorf("%s: bad reply", path)
	}
	reply := make([]byte, length)
	if _, err := io.ReadFull(x, reply); err != nil {
		return "", err
	}
	if answered == xsError {
		if reason := strings.TrimSuffix(string(reply), "\x00"); reason != "ENOENT" {
			return "", fmt.Errorf("%s: %s", path, reason)
		}
		return "", nil
	}
	return string(reply), nil
}
