package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// startSSHD starts an sshd of the test's own on loopback, with keys, port and
// configuration of its own, and returns the command that reaches it: "ssh -F CONF
// standby". What runs there works in a home of its own, with the host's state
// directory. extra is added to the server's configuration. After twoLinks it is in the
// target's network, and has the other name "otherway".
func (h *host) startSSHD(extra string) string {
	h.Helper()
	needRoot(h.T)
	server, err := exec.LookPath("/usr/sbin/sshd")
	if err != nil {
		h.Skip("needs openssh-server")
	}
	// What sshd wants for its unprivileged part; systemd makes it where it runs one.
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		h.Fatal(err)
	}
	dir, err := os.MkdirTemp(h.notes, "sshd")
	if err != nil {
		h.Fatal(err)
	}
	h.must(fmt.Sprintf("cd %s && ssh-keygen -q -t ed25519 -N '' -f host && "+
		"ssh-keygen -q -t ed25519 -N '' -f user && cp user.pub authorized", dir))
	port := freePort(h)
	listen, address, other := "127.0.0.1", "127.0.0.1", "127.0.0.1"
	if h.far != "" {
		listen, address, other = "0.0.0.0", farAddresses[0], farAddresses[1]
	}
	h.note(dir+"/sshd_config", fmt.Sprintf(`ListenAddress %[5]s:%[1]d
HostKey %[2]s/host
AuthorizedKeysFile %[2]s/authorized
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
KexAlgorithms curve25519-sha256
AcceptEnv XB_STATE_DIR
SetEnv PATH=%[3]s:/usr/bin:/bin LIBVIRT_DEFAULT_URI=test://%[6]s/node.xml
%[4]s
`, port, dir, bin, extra, listen, h.notes))
	h.note(dir+"/known_hosts", "standby "+h.must("cut -d' ' -f1,2 "+dir+"/host.pub"))
	h.note(dir+"/ssh_config", fmt.Sprintf(`Host standby
HostName %[3]s
Host otherway
HostName %[4]s
Host *
HostKeyAlias standby
Port %[1]d
IdentityFile %[2]s/user
IdentitiesOnly yes
UserKnownHostsFile %[2]s/known_hosts
GlobalKnownHostsFile none
BatchMode yes
RequestTTY no
SendEnv XB_STATE_DIR
LogLevel ERROR
`, port, dir, address, other))
	command := strings.Fields(h.far + " ../../scripts/hosts/own-home " + dir + " " + server + " -D -e -f " + dir +
		"/sshd_config")
	sshd := exec.Command(command[0], command[1:]...)
	log, err := os.Create(dir + "/log")
	if err != nil {
		h.Fatal(err)
	}
	defer log.Close()
	sshd.Stderr = log
	if err := sshd.Start(); err != nil {
		h.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { sshd.Wait(); close(ended) }()
	h.Cleanup(func() {
		sshd.Process.Kill()
		<-ended
	})
	ssh := h.near + " ssh -F " + dir + "/ssh_config standby"
	h.Cleanup(func() {
		if h.Failed() {
			text, _ := os.ReadFile(dir + "/log")
			h.Logf("sshd said:\n%s", text)
		}
	})
	eventually(h, "an answer of sshd", func() bool {
		select {
		case <-ended:
			h.Fatal("sshd has ended")
		default:
		}
		return h.sh(ssh+" true").status == 0
	})
	return ssh
}

func (h *host) note(path, text string) {
	h.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		h.Fatal(err)
	}
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// overSSH is the usual pipeline with the target at the other end of ssh.
func (h *host) overSSH(ssh, source, target, sigOptions string) result {
	h.Helper()
	if !filepath.IsAbs(target) {
		target = h.path(target)
	}
	return h.pipe(fmt.Sprintf("%s xb-sig %s %s", ssh, sigOptions, target), "xb-delta "+source, ssh+" xb-patch "+target)
}
