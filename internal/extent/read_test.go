package extent

import (
	"errors"
	"io"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"xen-backup/internal/exit"
)

func readAll(in io.Reader) (list [][2]int64, err error) {
	r := NewReader(in)
	for {
		off, n, err := r.Next()
		if err == io.EOF {
			return list, nil
		} else if err != nil {
			return nil, err
		}
		list = append(list, [2]int64{off, n})
	}
}

// What WriteText writes is read again, and no proper prefix of it.
func TestRead(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	for seed := range 30 {
		e := NewSet(int64(1+rnd.IntN(9)), 5000)
		for range seed {
			e.Add(int64(rnd.IntN(5000)), int64(rnd.IntN(30)))
		}
		var b strings.Builder
		if err := e.WriteText(&b); err != nil {
			t.Fatal(err)
		}
		text := b.String()
		got, err := readAll(iotest.OneByteReader(strings.NewReader(text)))
		if err != nil || !reflect.DeepEqual(got, pairs(e)) {
			t.Fatalf("%q: %v, %v", text, got, err)
		}
		for n := range len(text) {
			if _, err := readAll(strings.NewReader(text[:n])); exit.StatusOf(err) != exit.BadStream {
				t.Fatalf("%q: %v", text[:n], err)
			}
		}
		if _, err := readAll(strings.NewReader(text + "\n")); exit.StatusOf(err) != exit.BadStream {
			t.Errorf("with more: %v", err)
		}
	}
}

func TestReadBad(t *testing.T) {
	for text, word := range map[string]string{
		"":                              "empty",
		"\n":                            "line 1",
		"0 10\nend 1 11\n":              "line 2",
		"0 10\nend 2 10\n":              "1 10",
		"0 10\nend 1 10":                "cut",
		"0 10\nend 1 10\nend 1 10\n":    "more",
		"0 10\nend 1 10 \n":             "end line",
		"0 10\nend\n":                   "end line",
		"10 10\n0 10\nend 2 20\n":       "before the end",
		"0 10\n9 10\nend 2 20\n":        "before the end",
		"0 10\n0 10\nend 2 20\n":        "before the end",
		"0 0\nend 1 0\n":                "line 1",
		"-1 10\nend 1 10\n":             "line 1",
		"+1 10\nend 1 10\n":             "line 1",
		"01 10\nend 1 10\n":             "line 1",
		"1  10\nend 1 10\n":             "line 1",
		"1 10 \nend 1 10\n":             "line 1",
		"1 10\r\nend 1 10\r\n":          "line 1",
		"1\t10\nend 1 10\n":             "line 1",
		"9223372036854775807 1\n":       "line 1",
		"1 9223372036854775808\n":       "line 1",
		"Last login: today\n":           "Last login",
		strings.Repeat("1", 1<<18):      "1111",
		strings.Repeat("1", 100) + "\n": "1111",
	} {
		_, err := readAll(strings.NewReader(text))
		if exit.StatusOf(err) != exit.BadStream || !strings.Contains(err.Error(), word) || len(err.Error()) > 300 {
			t.Errorf("%.60q: %v", text, err)
		}
	}
	broken := errors.New("broken")
	if _, err := readAll(io.MultiReader(strings.NewReader("0 10\n"), iotest.ErrReader(broken))); err != broken {
		t.Errorf("the error of a read is %v", err)
	}
	// Those that touch each other are two all the same.
	if list, err := readAll(strings.NewReader("0 10\n10 5\nend 2 15\n")); err != nil || len(list) != 2 {
		t.Errorf("%v, %v", list, err)
	}
}
