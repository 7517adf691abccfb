package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// said returns the lines of an image, empty ones between by their places, and demands that all in it is text.
func said(t *testing.T, image []byte) (lines []string) {
	t.Helper()
	decoder := xml.NewDecoder(bytes.NewReader(image))
	var names []string
	rows := 0
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return lines
		} else if err != nil {
			t.Fatal(err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			name := token.Name.Local
			names = append(names, name)
			if !slices.Contains([]string{"svg", "title", "style", "rect", "text", "tspan"}, name) {
				t.Fatalf("there is a <%s>", name)
			}
			if name == "tspan" {
				rows++
			}
			if name == "text" {
				row := 0
				for _, a := range token.Attr {
					if a.Name.Local == "y" {
						row = (number(a.Value) - margin + 4) / height
					}
				}
				for ; rows < row-1; rows++ {
					lines = append(lines, "")
				}
				lines = append(lines, "")
				rows++
			}
		case xml.CharData:
			if len(names) > 0 && strings.HasPrefix(names[len(names)-1], "t") && names[len(names)-1] != "title" {
				lines[len(lines)-1] += string(token)
			}
		case xml.EndElement:
			names = names[:len(names)-1]
		}
	}
}

func number(s string) (n int) {
	for _, digit := range s {
		n = n*10 + int(digit-'0')
	}
	return n
}

func TestDraw(t *testing.T) {
	long := "     " + strings.Repeat("some words & <more> ", 20) + strings.Repeat("x", 300)
	in := "\n== A step\n\n   dom0a# xb-locate domu1\n     xvda\t/srv\x1b[K\r\n" + long + "\n   status 3\n\ndemo: all shown\n"
	var out bytes.Buffer
	if err := draw(strings.NewReader(in), &out); err != nil {
		t.Fatal(err)
	}
	want := []string{"== A step", "", "   dom0a# xb-locate domu1", "     xvda       /srv[K", long, "   status 3", "", "demo: all shown"}
	if got := said(t, out.Bytes()); !slices.Equal(got, want) {
		t.Errorf("it says\n%q\nwant\n%q", got, want)
	}
	for _, piece := range wrap(long) {
		if len(piece) > columns {
			t.Errorf("%d columns: %s", len(piece), piece)
		}
	}
	if err := draw(strings.NewReader("== A step\ndemo: FAILED: x\n"), io.Discard); err == nil {
		t.Error("a demo that has failed is drawn")
	}
}

// TestDemo: the image in the tree is what this program makes of its words, and of each step of the demo; nobody's hand
// was at it.
func TestDemo(t *testing.T) {
	image, err := os.ReadFile("../doc/demo.svg")
	if err != nil {
		t.Fatal(err)
	}
	if len(image) >= 60_000 {
		t.Errorf("it has %d bytes", len(image))
	}
	lines := said(t, image)
	var again bytes.Buffer
	if err := draw(strings.NewReader(strings.Join(lines, "\n")), &again); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(image, again.Bytes()) {
		t.Error("the same words make another image")
	}
	demo, err := os.ReadFile("../../demo")
	if err != nil {
		t.Fatal(err)
	}
	var steps, shown []string
	for _, m := range regexp.MustCompile(`(?m)^step '(.*)'$`).FindAllSubmatch(demo, -1) {
		steps = append(steps, string(m[1]))
	}
	for _, line := range lines {
		if step, ok := strings.CutPrefix(line, "== "); ok {
			shown = append(shown, step)
		}
	}
	if len(steps) < 8 || !slices.Equal(steps, shown) {
		t.Errorf("the demo has the steps\n%q\nand the image\n%q", steps, shown)
	}
}
