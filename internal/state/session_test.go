package state

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
)

// connect returns the session of a connection whose two ends are here, as sshd would name it.
func connect(t *testing.T, network, address string) (session string, client, server net.Conn) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Skip(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	from, to := client.LocalAddr().(*net.TCPAddr), server.LocalAddr().(*net.TCPAddr)
	return fmt.Sprintf("%s %d %s %d", from.IP, from.Port, to.IP, to.Port), client, server
}

// setTables has a table of the kernel's form stand for the kernel's, and restores those.
func setTables(t *testing.T, text string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "tcp")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	before := tables
	tables = []string{name}
	t.Cleanup(func() { tables = before })
}

// TestSessionsOfTheKernel: a live connection, of either kind, is found and is not dead.
func TestSessionsOfTheKernel(t *testing.T) {
	for _, listen := range []struct{ network, address string }{
		{"tcp4", "127.0.0.1:0"}, {"tcp6", "[::1]:0"}, {"tcp", "[::]:0"},
	} {
		session, _, server := connect(t, listen.network, listen.address)
		if _, err := server.Write([]byte("waiting\n")); err != nil { // which nobody reads, but the kernel acknowledges
			t.Fatal(err)
		}
		if unanswered(session) {
			t.Errorf("%s: %s is dead", listen.network, session)
		}
	}
}

func TestSessions(t *testing.T) {
	const head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	v4 := func(queue, again string) string {
		return head + "   0: 020200C0:0016 010200C0:0001 01 " + queue + ":00000000 01:00000014 " + again +
			"     0        0 1 1 ffff\n"
	}
	const session = "192.0.2.1 1 192.0.2.2 22"
	for _, c := range []struct {
		name, session, table string
		dead                 bool
	}{
		{"dead", session, v4("00000024", "00000005"), true},
		{"dead, and mapped into IPv6", "::ffff:192.0.2.1 1 192.0.2.2 22",
			head + "0: 0000000000000000FFFF0000020200C0:0016 0000000000000000FFFF0000010200C0:0001 " +
				"04 00000024:00000000 01:00000014 00000003 0\n", true},
		{"dead, link-local", "fe80::1%eth0 1 fe80::2%eth0 22",
			head + "0: 000080FE000000000000000002000000:0016 000080FE000000000000000001000000:0001 " +
				"01 00000024:00000000 01:00000014 00000009 0\n", true},
		{"nothing to be acknowledged", session, v4("00000000", "00000005"), false},
		{"a loss", session, v4("00000024", "00000002"), false},
		{"another port", "192.0.2.1 2 192.0.2.2 22", v4("00000024", "00000005"), false},
		{"the other way round", "192.0.2.2 22 192.0.2.1 1", v4("00000024", "00000005"), false},
		{"none", "", v4("00000024", "00000005"), false},
		{"no addresses", "a b c d", v4("00000024", "00000005") +
			"1: zz:1 zz:1 01 00000024:00000000 01:00000014 00000005 0\n", false},
		{"no table", session, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			setTables(t, c.table)
			if got := unanswered(c.session); got != c.dead {
				t.Errorf("dead: %v", got)
			}
		})
	}
}
