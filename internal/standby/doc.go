// Package standby changes a target only so that it always is a whole image: the old one or
// the new one. Where a crash leaves neither, the state has said so before the first write,
// every command on the target says it too and names the cure, and the cure needs nothing but
// what is on this host; only a first copy, where there is nothing to lose, has to come again.
//
// A run takes named steps, one after another, and the order of them is what keeps the
// promise: steps.go has the lists.
package standby
