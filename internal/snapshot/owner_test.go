package snapshot

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestOwner(t *testing.T) {
	me, err := FindOwner(fmt.Sprint(os.Getpid()))
	if err != nil || me.dead() || !ownerWords().MatchString(string(me)) {
		t.Fatalf("owner %q, %v", me, err)
	}
	words := strings.Split(string(me), ".")
	for _, c := range []struct {
		owner Owner
		dead  bool
		text  string
	}{
		{me, false, "process " + words[0]},
		{Owner(words[0] + ".1." + words[2]), true, "dead " + words[0]},             // the number was used again
		{Owner(words[0] + "." + words[1] + ".00000000"), true, "dead " + words[0]}, // another boot
		{Owner("4194999.5." + words[2]), true, "dead 4194999"},
		{nobody, false, "no owner"},
		{"", false, "unknown owner"}, // no word of a death, so none
		{"x", false, "unknown owner"},
	} {
		if c.owner.dead() != c.dead || c.owner.String() != c.text {
			t.Errorf("%q: dead %v, %q", c.owner, c.owner.dead(), c.owner)
		}
	}
}
