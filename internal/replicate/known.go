package replicate

import "strings"

// Known asks all Dom0s whether they know a DomU, active or not: yes, no, or maybe where no one does, and one cannot be
// asked.
func Known(o Options, names []string) (word string, err error) {
	r, release, err := newRun(o, nil)
	if err != nil {
		return "", err
	}
	defer release()
	answers := make(chan string, len(names))
	each(names, len(names), func(name string) bool {
		answers <- r.known(r.dom0(name))
		return true
	})
	close(answers)
	word = "no"
	for answer := range answers {
		switch {
		case answer == "yes":
			word = answer
		case answer != "no" && word != "yes":
			word = "maybe"
		}
	}
	return word, nil
}

func (r *run) known(d *dom0) string {
	if d.isDead() {
		return ""
	}
	words := append(append([]string{"xb-locate", "--known"}, r.toolstack()...), r.DomU)
	e := r.ask(d, knownLimit, nil, r.at(d, words...))
	if !e.good() {
		return ""
	}
	return strings.TrimRight(e.answer.String(), "\n")
}
