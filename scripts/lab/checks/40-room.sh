#!/bin/bash
# lab: campaign
# A standby on a thin pool: what a delta needs of the pool, for blocks that the volume has not yet and for those that a
# snapshot has too, is known before the first write. No room is 73, and the old image stands.
thinpool dom0b xblab0/pool 64M
mkthin dom0b xblab0/pool t 64M
mkthin dom0b xblab0/pool ballast 64M
mklv dom0a xblab0/src 64M
blkdiscard -z /dev/xblab0/src
# change SKIP COUNT: random bytes in these MiB of the source
change() { dd if=/dev/urandom of=/dev/xblab0/src bs=1M seek="$1" count="$2" oflag=direct iflag=fullblock status=none; }
sync() { onb xb-sig /dev/xblab0/t | xb-delta /dev/xblab0/src | onb xb-patch -q /dev/xblab0/t 2>said; }
phase() { onb xb-patch --state /dev/xblab0/t | jq -r .phase; }
# leave MIB: so much is free in the pool
leave() {
	onb blkdiscard /dev/xblab0/ballast
	local used
	used=$(onb dmsetup status xblab0-pool-tpool | awk '{ split($6, n, "/"); print int((n[2] - n[1]) / 16) }')
	onb "dd if=/dev/urandom of=/dev/xblab0/ballast bs=1M count=$((used - $1)) oflag=direct iflag=fullblock status=none"
}

change 0 16
sync
leave 8
change 30 20
before=$(digest dom0b /dev/xblab0/t)
status 73 sync
grep -q 'no room for the image in the thin pool of /dev/xblab0/t: it needs 20.0 MiB more, and there are' said
equal "$(phase)" clean "phase"
equal "$(digest dom0b /dev/xblab0/t)" "$before" "the standby's image"

echo "--- blocks that it has need no room, unless a snapshot has them too"
blkdiscard -z -o $((30 << 20)) -l $((20 << 20)) /dev/xblab0/src
change 0 16
sync
equal "$(digest dom0b /dev/xblab0/t)" "$(digest dom0a /dev/xblab0/src)" "the standby's image"
onb lvcreate -q -y -s -n s xblab0/t
change 0 16
status 73 sync
grep -q 'it needs 16.0 MiB more' said
equal "$(phase)" clean "phase"
onb lvremove -q -y xblab0/s
onb dmsetup status xblab0-pool-tpool | grep -q ' - rw' || fail "the pool has suffered"
equal "$(onb "dmsetup status xblab0-pool-tpool" | awk '{ print $7 }')" - "the metadata snapshot that is held"

echo "--- room"
onb blkdiscard /dev/xblab0/ballast
sync
equal "$(digest dom0b /dev/xblab0/t)" "$(digest dom0a /dev/xblab0/src)" "the standby's image"
