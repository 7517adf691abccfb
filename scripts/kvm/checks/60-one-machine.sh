#!/bin/bash
# pair: campaign
# A DomU is one machine: where somebody has written to the standby of one disk, no disk becomes the new image (80), and
# the standbys are those of one instant still. When that is mended, the next run makes them those of another one.

# scribble DISK, mend DISK: in the first bytes of the disk, which are zeroes, and which ext4 leaves alone.
scribble() { on dom0b dd if=/dev/urandom of="/srv/$1.img" bs=16 count=1 conv=notrunc,fsync status=none; }
mend() { on dom0b dd if=/dev/zero of="/srv/$1.img" bs=16 count=1 conv=notrunc,fsync status=none; }

# set_of_standby prints the set that README's check before a failover finds; it fails unless all disks are clean, and of
# one whole set, which is that of the document.
set_of_standby() {
	local disk state set all=''
	for disk in root data; do
		state=$(on dom0b xb-patch --state "/srv/$disk.img" | sed -E 's/(.)\{[^{}]*\}/\1/g') # without what is held
		[[ $state = *'"phase":"clean"'* && $state = *'"whole_set":true'* ]] || fail "$disk: $state"
		set=$(sed -E 's/.*"set":"([^"]*)".*/\1/' <<<"$state")
		[[ $set = "${all:=$set}" && $state = *"\"document_set\":\"$set\""* ]] || fail "$disk: not of set $all: $state"
	done
	echo "$set"
}

fresh hasty
backup dom0a
for disk in data root; do
	echo "--- $disk"
	old=$(set_of_standby)
	numbers=$(instant dom0b)
	goes_on dom0a
	goes_on dom0a
	scribble $disk
	status 3 backup dom0a
	grep '^### ERROR 80: ' mail
	grep 'its standby on dom0b is of ' mail
	[[ $(set_of_standby) = "$old" ]]
	[[ $(instant dom0b) = "$numbers" ]]
	mend $disk
	backup dom0a
	set=$(set_of_standby)
	now=$(instant dom0b)
	[[ $set != "$old" && $now != "$numbers" ]]
done
