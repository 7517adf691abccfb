package dm

import "testing"

func TestGivenUp(t *testing.T) {
	const uuid = "LVM-vkxRLOzdRr2OqtgJpH5URYrGRzpyVSvr9okgbcmw4RKMhABpyaXLOBfcMfTJhZUW"
	for _, c := range []struct {
		name, uuid string
		targets    []Target
		givenUp    bool
	}{
		{"vg-xb--t1--ntxmqbty", uuid, []Target{{Type: "error"}}, true},
		{"vg-xb--t1--ntxmqbty", uuid, []Target{{Type: "thin"}}, false},
		{"vg-xb--t1--ntxmqbty", uuid, nil, false},
		{"vg-t1", uuid, []Target{{Type: "error"}}, false},                                 // a volume whose disk is gone
		{"vg-xb--t1--ntxmqbty", "", []Target{{Type: "error"}}, false},                     // none of LVM's
		{"vg-xb--t1--ntxmqbty-cow", uuid, []Target{{Type: "error"}}, false},               // a hidden part
		{"vg-xb--t1--ntxmqbty", uuid, []Target{{Type: "linear"}, {Type: "error"}}, false}, // partly active
	} {
		if d := (&Device{Name: c.name, UUID: c.uuid, Targets: c.targets}); d.GivenUp() != c.givenUp {
			t.Errorf("%s %s %v: %v", c.name, c.uuid, c.targets, d.GivenUp())
		}
	}
}

func TestSplitName(t *testing.T) {
	for name, want := range map[string][2]string{
		"vg-lv":       {"vg", "lv"},
		"a--b-c":      {"a-b", "c"},
		"a-b--c":      {"a", "b-c"},
		"a---b":       {"a-", "b"},
		"a----b-c--d": {"a--b", "c-d"},
		"vg-lv-real":  {},
		"vg":          {},
		"vg-":         {},
	} {
		vg, lv, ok := SplitName(name)
		if vg != want[0] || lv != want[1] || ok != (want[0] != "") {
			t.Errorf("%s: %q, %q, %v", name, vg, lv, ok)
		}
		if ok && VolumeName(vg, lv) != name {
			t.Errorf("%s: put together again, it is %s", name, VolumeName(vg, lv))
		}
	}
}
