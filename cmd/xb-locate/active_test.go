package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestActive(t *testing.T) {
	t.Parallel()
	img, open := image(t), image(t)
	uri := node(t, guest("runs", 1, 1, disk("file", "file", img, "xvda", ""))+
		guest("off", 2, 5, disk("file", "file", img, "xvda", ""))+
		guest("net", 3, 1, networkDisk("xvda"))+
		guest("held", 4, 5, disk("file", "file", open, "xvda", "")))
	f, err := os.Open(open)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	holder := exec.Command("sleep", "60")
	holder.Stdin = f
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { holder.Process.Kill(); holder.Wait() }()
	held := fmt.Sprintf("xb-locate: held is not active here (virsh: shut off (unknown)), "+
		"but its disk xvda (%s) is in use: process %d (sleep) has it open\n", open, holder.Process.Pid)
	for ask, want := range map[string]result{
		"runs":                    {stdout: "yes\n"},
		"off":                     {stdout: "no\n"},
		"none":                    {stdout: "no\n"},
		"net":                     {stdout: "yes\n"}, // a disk that cannot be copied
		"held":                    {75, "", held},
		"off runs net none":       {stdout: "off\tno\nruns\tyes\nnet\tyes\nnone\tno\n"},
		"off held runs":           {75, "off\tno\nheld\tbusy\nruns\tyes\n", held},
		"--json runs":             {64, "", "xb-locate: --json does not go with --active\ntry 'xb-locate --help'\n"},
		"--exclude xvda runs":     {64, "", "xb-locate: --exclude does not go with --active\ntry 'xb-locate --help'\n"},
		"--toolstack virsh  runs": {stdout: "yes\n"},
	} {
		args := append([]string{"--active", "-c", uri, "--toolstack", "virsh"}, strings.Fields(ask)...)
		if r := locateCommand(t, nil, args...); r != want {
			t.Errorf("%s: %+v, want %+v", ask, r, want)
		}
	}
	for _, args := range [][]string{{"--active"}, {"--active", "a", " b"}, {"--active", "--xml", "f", "a"}} {
		if r := locateCommand(t, nil, args...); r.status != 64 {
			t.Errorf("%q: %+v", args, r)
		}
	}
	r := locateCommand(t, nil, "--active", "-c", uri+".none", "--toolstack", "virsh", "runs")
	if r.status != 69 || r.stdout != "" {
		t.Errorf("no answer: %+v", r)
	}
	r = locateCommand(t, nil, "--active", "-c", uri+".none", "--toolstack", "virsh", "runs", "off")
	if r.status != 69 || r.stdout != "runs\tunknown\noff\tunknown\n" {
		t.Errorf("no answer of two: %+v", r)
	}
}

func TestKnown(t *testing.T) {
	t.Parallel()
	uri := node(t, guest("runs", 1, 1, "")+guest("off", 2, 5, ""))
	for ask, want := range map[string]result{
		"runs":          {stdout: "yes\n"},
		"off":           {stdout: "yes\n"},
		"of":            {stdout: "no\n"},
		"2":             {stdout: "no\n"},
		"of runs off":   {stdout: "of\tno\nruns\tyes\noff\tyes\n"},
		"runs --active": {64, "", "xb-locate: --known does not go with --active\ntry 'xb-locate --help'\n"},
	} {
		args := append([]string{"--known", "-c", uri, "--toolstack", "virsh"}, strings.Fields(ask)...)
		if r := locateCommand(t, nil, args...); r != want {
			t.Errorf("%s: %+v, want %+v", ask, r, want)
		}
	}
	r := locateCommand(t, nil, "--known", "-c", uri+".none", "--toolstack", "virsh", "runs")
	if r.status != 69 || r.stdout != "" ||
		!strings.HasPrefix(r.stderr, "xb-locate: cannot tell whether runs is known: virsh: ") {
		t.Errorf("no answer: %+v", r)
	}
}
