package domain

import (
	"testing"

	"xen-backup/internal/exit"
)

// While it changes its host, and while its memory waits for its disks, there is no no.
func TestActiveBusy(t *testing.T) {
	no := exit.Fail(exit.No, "not here")
	for _, c := range []struct {
		answer Answer
		final  bool
		word   string
		words  string
	}{
		{Answer{Half: true}, false, "busy", "not here"},
		{Answer{Saved: "by X: do Y"}, false, "busy", "d is not active here, but its memory is saved by X: do Y"},
		{Answer{Saved: "by X: do Y"}, true, "busy", "d is not active here, but its memory is saved by X: do Y"},
		{Answer{State: "shut off (saved)"}, false, "no", ""},
		{Answer{State: "shut off (saved)"}, true, "busy",
			"not here, and a part of its data is only in the memory that was saved: " +
				"virsh restore it and shut it down, or give the memory up: start it and shut it down"},
		{Answer{State: "shut off (shutdown)"}, true, "no", ""},
	} {
		word, err := activeWord("d", Found{Answer: c.answer, Err: no}, c.final)
		wrong := err == nil && c.words != "" || err != nil && (err.Error() != c.words || exit.StatusOf(err) != exit.Busy)
		if word != c.word || wrong {
			t.Errorf("%+v: %s, %v; want %s, %s", c.answer, word, err, c.word, c.words)
		}
	}
	busy, unknown := exit.Fail(exit.Busy, "a"), exit.Fail(exit.Unavailable, "b")
	for _, err := range []error{worse(worse(nil, busy), unknown), worse(unknown, busy)} {
		if exit.StatusOf(err) != exit.Unavailable || len(err.Error()) != len("a\nb") {
			t.Errorf("%d: %v", exit.StatusOf(err), err)
		}
	}
}

func TestSum(t *testing.T) {
	busy, unknown := exit.Fail(exit.Busy, "a"), exit.Fail(exit.Unavailable, "b")
	yes, no := Said{Name: "x", Word: "yes"}, Said{Name: "y", Word: "no"}
	for _, c := range []struct {
		said   []Said
		text   string
		status int
	}{
		{[]Said{yes}, "yes\n", 0},
		{[]Said{no, yes}, "y\tno\nx\tyes\n", 0},
		{[]Said{{"z", "busy", busy, nil}}, "", exit.Busy},
		{[]Said{yes, {"z", "busy", busy, nil}}, "x\tyes\nz\tbusy\n", exit.Busy},
		{[]Said{{"z", "busy", busy, nil}, {"u", "unknown", unknown, nil}, no}, "z\tbusy\nu\tunknown\ny\tno\n", exit.Unavailable},
		{nil, "", 0},
	} {
		if text, err := Sum(c.said); text != c.text || exit.StatusOf(err) != c.status {
			t.Errorf("%v: %q, %v", c.said, text, err)
		}
	}
}
