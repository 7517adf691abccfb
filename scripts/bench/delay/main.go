// Delay is a slow wire between a process and a TCP server: it delivers what it
// reads from standard input to ADDRESS, and what comes back to standard output,
// each byte TIME after it came. As the ProxyCommand of ssh it shows what a round
// trip costs, the windows of the ssh protocol included, where the kernel has no
// netem.
//
//	delay TIME ADDRESS
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "delay:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: delay TIME ADDRESS")
	}
	latency, err := time.ParseDuration(args[0])
	if err != nil {
		return err
	}
	conn, err := net.Dial("tcp", args[1])
	if err != nil {
		return err
	}
	server := conn.(*net.TCPConn)
	go func() {
		// What fails here shows as the end of what the server sends.
		_ = pass(server, os.Stdin, latency)
		_ = server.CloseWrite()
	}()
	return pass(os.Stdout, server, latency)
}

// packet is data on the wire.
type packet struct {
	data []byte
	due  time.Time
	err  error // io.EOF: the end
}

// pass copies r to w, everything latency after it was read. The wire holds up to
// 64 MiB, more than ssh ever has on its way.
func pass(w io.Writer, r io.Reader, latency time.Duration) error {
	wire := make(chan packet, 1024)
	go func() {
		for {
			buf := make([]byte, 64<<10)
			n, err := r.Read(buf)
			wire <- packet{buf[:n], time.Now().Add(latency), err}
			if err != nil {
				return
			}
		}
	}()
	for {
		p := <-wire
		time.Sleep(time.Until(p.due))
		if _, err := w.Write(p.data); err != nil {
			return err
		}
		if p.err == io.EOF {
			return nil
		} else if p.err != nil {
			return p.err
		}
	}
}
