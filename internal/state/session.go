package state

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// tables list the kernel's TCP connections: proc_net_tcp(5).
var tables = []string{"/proc/net/tcp", "/proc/net/tcp6"}

// unansweredSends is how often the kernel has sent the same bytes again before nobody counts
// as listening: some seconds after the first time.
const unansweredSends = 3

// unanswered reports whether the other end of a session does not acknowledge what is sent to
// it. session is the SSH_CONNECTION that sshd sets: address and port of the client, address
// and port of the server. A session over which nothing was sent may be as dead, but nobody
// knows.
func unanswered(session string) bool {
	words := strings.Fields(session)
	if len(words) != 4 {
		return false
	}
	client, server := endpoint(words[0], words[1]), endpoint(words[2], words[3])
	for _, table := range tables {
		text, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			// "0: 0100007F:0016 0100007F:C350 01 00000024:00000000 01:00000014 00000005 ...":
			// number, local and remote address, state, queues, timer, times sent again
			fields := strings.Fields(line)
			if len(fields) < 7 || !server.IsValid() || parseEndpoint(fields[1]) != server || parseEndpoint(fields[2]) != client {
				continue
			}
			again, err := strconv.ParseUint(fields[6], 16, 32)
			return err == nil && again >= unansweredSends && !strings.HasPrefix(fields[4], "00000000:")
		}
	}
	return false
}

func endpoint(address, port string) netip.AddrPort {
	a, err := netip.ParseAddr(address)
	n, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a.Unmap().WithZone(""), uint16(n))
}

// parseEndpoint reads the kernel's form: words of 32 bits in the machine's order, in
// hexadecimal, and the port.
func parseEndpoint(s string) netip.AddrPort {
	address, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(address)
	n, portErr := strconv.ParseUint(port, 16, 16)
	if err != nil || portErr != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	a, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(a.Unmap(), uint16(n))
}
