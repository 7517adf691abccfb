// Package standby changes a target only so that it always is a whole image: the old one or
// the new one. Where a crash leaves neither, the state has said so before the first write,
// every command on the target says it too and names the cure, and the cure needs nothing but
// what is on this host; only a first copy, where there is nothing to lose, has to come again.
//
// A run takes named steps, one after another, and the order of them is what keeps the
// promise: steps.go has the lists. The tables say what a run leaves behind if it is killed
// after a step, or in the middle of one ("half"); the tests kill it there, and hold what they
// find against the row.
//
// The target is "old", "new", or "mix": anything, because what was written may not have come
// to the disk; a file that is to be created is old while it is missing or empty. The state
// is what --state prints: "before" is what it was before the run. The spool is the delta's file
// in its directory, with "part" at the end of its name until it is whole. Next is the status
// with which the next run ends, with a fresh delta of the same source; after 0 the target is
// new, the state clean and the spool gone, and --recover has nothing to do.
//
// # An apply
//
//	killed after   target  state     spool  next  cure
//	half received  old     before    part   0     the next run
//	received       old     before    part   0     the next run
//	proved         old     before    part   0     the next run
//	pointed        old     before    part   0     the next run
//	created        old     before    part   0     the next run
//	guarded        old     before    part   0     the next run
//	reserved       old     before    part   0     the next run
//	kept           old     before    whole  0     the next run
//	recorded       old     applying  whole  83    --recover
//	half written   mix     applying  whole  83    --recover
//	written        mix     applying  whole  83    --recover
//	synced         new     applying  whole  83    --recover
//	reread         new     applying  whole  83    --recover
//	clean          new     clean     whole  0     the next run
//	removed        new     clean     none   0     none
//
// # A hold
//
// It is the next run of any kind that takes its place.
//
//	killed after   target  state     spool  next  cure
//	half received  old     before    part   0     the next run
//	received       old     before    part   0     the next run
//	proved         old     before    part   0     the next run
//	kept           old     before    whole  0     the next run
//	held           old     before    whole  0     the next run
//
// # The commit of a set
//
// What is in a row is true of all disks of the set; "part" is that they differ: one is the old
// image and one a mix, or one is new and clean, and the others are applying. Next is the same commit again.
//
// The moment between "prepared" and "changed" is the rename of one file, which lists the disks and
// what is held for each: the set's record. Before it nothing of any target is touched but that a missing one
// is an empty file, and the notes of what is held mean nothing: the next run removes them. After it each
// disk that its note or own state still gives to this set is "applying", whatever else its own state says,
// until that is clean of this set; so nobody takes one for whole while another is not, and there
// is, proved and durable, a spool for each, until the state that makes it needless is. The own states follow before the first byte
// is written, for programs that know no sets. The record goes last: where it stays behind, no disk has a part in it any more,
// and who takes the lock of one removes it.
//
//	killed after   target  state     spool  next  cure
//	locked         old     before    whole  0     the next run
//	checked        old     before    whole  0     the next run
//	pointed        old     before    whole  0     the next run
//	prepared       old     before    whole  0     the next run
//	changed        old     applying  whole  83    --recover
//	half recorded  old     applying  whole  83    --recover
//	recorded       old     applying  whole  83    --recover
//	half written   part    applying  whole  83    --recover
//	half finished  part    part      part   83    --recover
//	finished       new     clean     none   0     the next run
//	forgotten      new     clean     none   0     none
//
// # The recovery of a set
//
// Killed is a recovery of any of its disks, after a commit that was killed in any of these rows.
//
//	killed after   target  state     spool  next  cure
//	locked         part    applying  whole  83    --recover
//	reloaded       part    applying  whole  83    --recover
//	judged         part    applying  whole  83    --recover
//	ready          part    applying  whole  83    --recover
//	half recorded  part    applying  whole  83    --recover
//	recorded       part    applying  whole  83    --recover
//	half written   part    applying  whole  83    --recover
//	half finished  part    part      part   83    --recover
//	finished       new     clean     none   0     the next run
//	forgotten      new     clean     none   0     none
//
// # A recovery
//
//	killed after   target  state     spool  next  cure
//	received       mix     applying  whole  83    --recover
//	created        mix     applying  whole  83    --recover
//	proved         mix     applying  whole  83    --recover
//	guarded        mix     applying  whole  83    --recover
//	half written   mix     applying  whole  83    --recover
//	written        mix     applying  whole  83    --recover
//	synced         new     applying  whole  83    --recover
//	reread         new     applying  whole  83    --recover
//	clean          new     clean     whole  0     the next run
//	removed        new     clean     none   0     none
//
// # A first copy in place
//
// The next run is in place too. It refuses what is clean: then there is something to lose.
//
// What is created may be a logical volume. Killed after "created" or "guarded", that holds what its extents held, and
// nobody knows of it: the next run is a first contact. From "recorded" on the state says so, with the field "created".
//
//	killed after   target  state       spool  next  cure
//	proved         old     before      none   0     the next run
//	created        old     before      none   0     the next run
//	guarded        old     before      none   0     the next run
//	recorded       old     incomplete  none   0     the next run
//	sized          mix     incomplete  none   0     the next run
//	half written   mix     incomplete  none   0     the next run
//	written        mix     incomplete  none   0     the next run
//	synced         new     incomplete  none   0     the next run
//	reread         new     incomplete  none   0     the next run
//	clean          new     clean       none   80    none
package standby
