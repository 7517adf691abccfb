package snapshot

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// fake is a member that writes down what is done with it, and may fail.
type fake struct {
	name  string
	fails string // the step that does
	log   *[]string
}

func (f *fake) do(step string) error {
	*f.log = append(*f.log, step+" "+f.name)
	if f.fails == step {
		return fmt.Errorf("%s failed", step)
	}
	return nil
}

func (f *fake) prepare() error { return f.do("prepare") }
func (f *fake) take() error    { return f.do("take") }
func (f *fake) finish() error  { return f.do("finish") }
func (f *fake) undo() error    { return f.do("undo") }
func (f *fake) path() string   { return f.name }

// stillness is one of a guest that may fail, too.
type stillness struct{ fake }

func (s *stillness) Check() error { return s.do("check") }
func (s *stillness) Begin() error { return s.do("begin") }
func (s *stillness) End() error   { return s.do("end") }

// TestAllOrNothing has each step of each of three members fail, and what comes after.
func TestAllOrNothing(t *testing.T) {
	const whole = "prepare a, prepare b, prepare c, begin still, take a, take b, take c, end still, finish a, finish b, finish c, done"
	all := strings.Split(whole, ", ")
	for n := range len(all) + 1 {
		var log []string
		members := []*fake{{"a", "", &log}, {"b", "", &log}, {"c", "", &log}}
		still := &stillness{fake{"still", "", &log}}
		want, begun := slices.Clone(all[:min(n+1, len(all))]), min(n+1, len(members))
		var doneFails error
		if n < len(all) {
			switch step, name, _ := strings.Cut(all[n], " "); name {
			case "":
				doneFails = errors.New("done failed")
			case "still":
				still.fails = step
			default:
				members[name[0]-'a'].fails = step
			}
			if strings.HasPrefix(all[n], "take") { // whatever happens, the guest goes on
				want = append(want, "end still")
			}
			for i := begun - 1; i >= 0; i-- {
				want = append(want, "undo "+members[i].name)
			}
		}
		err := allOrNothing([]member{members[0], members[1], members[2]}, still, quiet{t}, func(time.Duration) error {
			log = append(log, "done")
			return doneFails
		})
		if !slices.Equal(log, want) || (err == nil) != (n == len(all)) {
			t.Errorf("%v: %s, want %s", err, strings.Join(log, ", "), strings.Join(want, ", "))
		}
	}
}

// TestUndoFails: what cannot be undone is told, and the others are undone all the same.
func TestUndoFails(t *testing.T) {
	var log []string
	a, b := &fake{"a", "take", &log}, &fake{"b", "undo", &log}
	err := allOrNothing([]member{b, a}, restless{}, quiet{t}, nil)
	undone := slices.Equal(log[len(log)-2:], []string{"undo a", "undo b"})
	if err == nil || err.Error() != "take failed\nundo failed" || !undone {
		t.Errorf("%v: %s", err, log)
	}
}

// TestUndoneMeanwhile: a signal has come, and nothing is begun after it.
func TestUndoneMeanwhile(t *testing.T) {
	var log []string
	a, b := &fake{"a", "", &log}, &fake{"b", "", &log}
	batch := new(batch)
	if err := batch.each([]member{a}, member.prepare); err != nil {
		t.Fatal(err)
	}
	if err := batch.undo(); err != nil {
		t.Fatal(err)
	}
	if err := batch.step(a, member.take); err == nil {
		t.Error("taken although it was undone")
	}
	if _, err := batch.takeAll([]member{b}, restless{}); err == nil {
		t.Error("begun although the batch is closed")
	}
	if err := batch.undo(); err != nil || strings.Join(log, ", ") != "prepare a, undo a" {
		t.Errorf("%v: %s", err, log)
	}
}
