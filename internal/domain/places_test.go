package domain

import (
	"maps"
	"testing"
)

func TestPlaces(t *testing.T) {
	var p Places
	for _, rule := range []string{"/a=/b", "/a/./x=/y", "file:///c%20d=file://localhost/e%3Df", "/a=/b"} {
		if err := p.Add(rule); err != nil {
			t.Errorf("%s: %v", rule, err)
		}
	}
	if want := (Places{"/a": "/b", "/a/x": "/y", "/c d": "/e=f"}); !maps.Equal(p, want) {
		t.Errorf("%q, want %q", p, want)
	}
	for _, rule := range []string{
		"", "/a", "a=/b", "/a=b", "/n=/b=/c", "/a=/c", "/n=/b", "/n=file:///%zz", "file://dom0b/n=/m", "=/m", "/n=",
	} {
		if err := p.Add(rule); err == nil {
			t.Errorf("%s is taken: %q", rule, p)
		}
	}
}
