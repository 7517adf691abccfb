// Package dom0s tells the Dom0s of a DomU apart, and finds what its disks are called on each: a
// host never takes itself for another one, and no two disks get one standby.
package dom0s

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"strings"
	"time"

	"xen-backup/internal/program"
)

// patience is the time that all servers of names may take for one name.
const patience = 60 * time.Second

// Answer says whether a name leads to this host.
type Answer string

// Unknown is a name that cannot be resolved.
const (
	Yes     Answer = "yes"
	No      Answer = "no"
	Unknown Answer = "unknown"
)

// Here says of each name whether it leads to this host. If local is not "" it is this host's
// name, and nobody is asked.
func Here(ctx context.Context, names []string, local string) map[string]Answer {
	answers := make(map[string]Answer, len(names))
	for _, name := range names {
		if _, known := answers[name]; known {
			continue
		}
		switch {
		case local == "":
			answers[name] = leadsHere(ctx, name)
		case name == local:
			answers[name] = Yes
		default:
			answers[name] = No
		}
	}
	return answers
}

// leadsHere asks getent(1), as ssh asks the C library: by all that /etc/nsswitch.conf names.
func leadsHere(ctx context.Context, name string) Answer {
	out, err := program.Ask(ctx, patience, "getent", "ahosts", name)
	if err != nil {
		return Unknown
	}
	answer := Unknown
	for line := range bytes.Lines(out) {
		word, _, _ := strings.Cut(string(line), " ")
		address, err := netip.ParseAddr(word)
		switch {
		case err != nil:
		case isLocal(address):
			return Yes
		default:
			answer = No
		}
	}
	return answer
}

// isLocal reports whether the way to an address stays on this host: the kernel then answers from
// that address itself. Nothing is sent. All of 127.0.0.0/8 is: Debian's /etc/hosts has 127.0.1.1.
func isLocal(address netip.Addr) bool {
	if address.Unmap().IsLoopback() {
		return true
	}
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(address, 9)))
	if err != nil {
		return false
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap() == address.Unmap()
}
