// Package dom0s tells the Dom0s of a DomU apart, and finds what its disks are called on each: a
// host never takes itself for another one, and no two disks get one standby.
package dom0s

import (
	"bytes"
	"context"
	"errors"
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

func leadsHere(ctx context.Context, name string) Answer {
	answer := Unknown
	for _, address := range addresses(ctx, name) {
		if isLocal(address) {
			return Yes
		}
		answer = No
	}
	return answer
}

// hostsFile knows what /etc/hosts and addresses say, and asks nobody.
var hostsFile = net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
	return nil, errors.New("no server is asked")
}}

// addresses returns those of a name. What /etc/hosts does not have getent(1) is asked for, which asks as ssh does:
// all that /etc/nsswitch.conf names.
func addresses(ctx context.Context, name string) (all []netip.Addr) {
	if all, err := hostsFile.LookupNetIP(ctx, "ip", name); err == nil {
		return all
	}
	out, err := program.Ask(ctx, patience, "getent", "ahosts", name)
	if err != nil {
		return nil
	}
	for line := range bytes.Lines(out) {
		word, _, _ := strings.Cut(string(line), " ")
		if address, err := netip.ParseAddr(word); err == nil {
			all = append(all, address)
		}
	}
	return all
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
