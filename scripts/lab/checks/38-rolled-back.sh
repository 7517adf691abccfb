#!/bin/bash
# lab: campaign
# A standby that became another one without a write: rolled back by merging a snapshot, thick and thin, or given another
# table. A delta made before is refused after one look at all of it. What does not change its bytes costs no such look.
mklv dom0a xblab0/s 8M
mklv dom0a xblab0/t 8M
mklv dom0a xblab0/u 8M
thinpool dom0a xblab0/pool 16M
mkthin dom0a xblab0/pool thin 8M
fill dom0a /dev/xblab0/s
change() { dd if=/dev/urandom of=/dev/xblab0/s bs=64K seek="$1" count=1 oflag=direct status=none; }
# signs TARGET, delta, apply TARGET: a sync in steps
signs() { xb-sig "/dev/xblab0/$1" >sig; }
delta() { xb-delta --signature sig /dev/xblab0/s >change.delta; }
apply() { xb-patch -v "/dev/xblab0/$1" <change.delta 2>words; }
# read_all yes|no: the last apply read all of the target
read_all() {
	local got=no
	grep -q 'reading all of it' words && got=yes
	equal "$got" "$1" "reading all of the standby: $(cat words)"
}
sync_to() {
	signs "$1"
	delta
	apply "$1"
	cmp -n 8388608 /dev/xblab0/s "/dev/xblab0/$1"
}
for t in t thin; do
	sync_to $t
	change 1
	sync_to $t
	read_all no

	echo "--- $t is rolled back"
	if [ $t = t ]; then lvcreate -q -y -s -L 4M -n back xblab0/t; else lvcreate -q -y -s -n back xblab0/thin; fi
	change 2
	sync_to $t
	read_all no
	change 3
	signs $t
	delta
	lvconvert -q -y -i 1 --merge xblab0/back
	old=$(digest dom0a /dev/xblab0/$t)
	status 80 apply $t
	read_all yes
	equal "$(digest dom0a /dev/xblab0/$t)" "$old" "the standby that was rolled back"
	signs $t
	delta
	xb-patch --force-diverged "/dev/xblab0/$t" <change.delta
done

echo "--- a snapshot that was taken since, written to and merged"
change 4
signs t
delta
lvcreate -q -y -s -L 4M -n back xblab0/t
dd if=/dev/urandom of=/dev/xblab0/back bs=64K seek=100 count=1 oflag=direct status=none
lvconvert -q -y -i 1 --merge xblab0/back
old=$(digest dom0a /dev/xblab0/t)
status 80 apply t
read_all yes
equal "$(digest dom0a /dev/xblab0/t)" "$old" "the standby into which a snapshot was merged"
signs t
delta
xb-patch --force-diverged /dev/xblab0/t <change.delta

echo "--- another table"
change 4
signs t
delta
table=$(dmsetup table xblab0-t)
other=$(digest dom0a /dev/xblab0/u)
load() { dmsetup load xblab0-t --table "$1" && dmsetup resume xblab0-t; }
load "$(dmsetup table xblab0-u)"
status 80 apply t
read_all yes
equal "$(digest dom0a /dev/xblab0/u)" "$other" "the volume that the standby's table led to"
load "$table"
apply t
read_all no

echo "--- what is no other table"
xb-patch --state /dev/xblab0/t
lvcreate -q -y -s -L 4M -n snap xblab0/t
change 5
sync_to t
read_all no
lvremove -q -y xblab0/snap
lvextend -q -L 16M xblab0/t
change 6
sync_to t # the snapshot could have been merged
change 7
sync_to t
read_all no
lvextend -q -L 24M xblab0/pool
lvextend -q -L 12M xblab0/thin
change 8
sync_to thin
read_all no
