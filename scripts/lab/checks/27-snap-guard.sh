#!/bin/bash
# lab: campaign
# A guest on a thin pool finds room although its snapshots are held: they are given up first.
vg=xblab0
pool=$vg-pool-tpool
thinpool dom0a $vg/pool 400M
mkthin dom0a $vg/pool t1 200M
mkthin dom0a $vg/pool t2 8M
fill dom0a /dev/$vg/t1
fill dom0a /dev/$vg/t2
: >empty
xb-sig empty >sig
used() { dmsetup status $pool | sed -E 's|.* ([0-9]+)/([0-9]+) [^ ]+ rw .*|\1 \2|'; } # data blocks; fails once the pool is not written to any more
check_is() { until got=0 && { xb-snap check "$1" >/dev/null 2>&1 || got=$?; } && [ $got = "$2" ]; do sleep 0.1; done; }
guard() {
	xb-snap guard --owner $$ >guarded 2>said &
	guard=$!
}

# guest PASSES STEP: rewrites its disk, so many MiB at a time, and notes each time how full the pool was.
guest() {
	for ((pass = 0; pass < $1; pass++)); do
		for ((at = 0; at < 200; at += $2)); do
			dd if=/dev/urandom of=/dev/$vg/t1 bs=1M count="$2" seek=$at oflag=direct conv=notrunc status=none || return
			used >>uses
		done
	done
}

echo "--- room for the snapshots"
refused 73 "thin pool $vg-pool has only 192.0 MiB free: 20.0 MiB are for the guests, .* may take 208.0 MiB more" xb-snap create /dev/$vg/t1 /dev/$vg/t2
xb-snap remove "$(xb-snap create --size 160M --owner none /dev/$vg/t1)"

echo "--- a slow copy of a disk that is rewritten"
guard
mapfile -t snaps < <(xb-snap create --size 100M --owner $$ /dev/$vg/t2 /dev/$vg/t1)
kept=$(xb-snap create --size 100M --owner none /dev/$vg/t2)
xb-delta --bwlimit 100K "${snaps[1]}" <sig >d.delta 2>reader &
reader=$!
until [ -s d.delta ]; do sleep 0.05; done
guest 2 20 # as fast as it can
status 82 wait $reader
grep "given up: the guest needs the room" reader
refused 65 . xb-delta --info d.delta
awk '$1 >= $2 { print "the pool was full"; exit 1 }' uses
sort -n uses | tail -n 1
diff guarded - <<X2
${snaps[0]}
${snaps[1]}
X2
grep "given up: thin pool $vg-pool has only" said
for snap in "${snaps[@]}"; do
	refused 82 "given up: the guest needs the room" xb-snap check "$snap"
	refused 82 "given up: the guest needs the room" xb-delta --signature sig "$snap"
	xb-snap list | grep -P "^$snap\t.*\tgiven up\t"
done
xb-snap check "$kept"
lvs -a $vg >/dev/null
mkthin dom0a $vg/pool t3 4M # LVM goes on as before
lvremove -q -y $vg/t3
xb-snap remove "${snaps[@]}"
equal "$(xb-snap list | cut -f1)" "$kept" "what is left"

echo "--- the owner is killed: nobody watches any more, so nothing stays"
kill $guard
status 143 wait $guard
sleep 1000 &
owner=$!
xb-snap guard --owner $owner >guarded 2>said &
guard=$!
snap=$(xb-snap create --size 100M --owner $owner /dev/$vg/t1)
mkfifo slowly
xb-delta "$snap" <slowly >d.delta 2>reader &
reader=$!
exec 7>slowly
until fuser -s "$snap"; do sleep 0.05; done
kill -KILL $owner
check_is "$snap" 82
cat sig >&7
exec 7>&-
status 82 wait $reader
status 0 wait $guard
equal "$(cat guarded)" "$snap" "what the guard removed"
equal "$(xb-snap list | cut -f1)" "$kept" "what is left"

echo "--- it is killed between the two steps"
snap=$(xb-snap create --size 100M --owner none /dev/$vg/t1)
before=$(used)
dmsetup wipe_table "$snap"
refused 82 "given up" xb-snap check "$snap"
xb-snap remove "$snap" "$kept"
equal "$(used)" "$before" "the pool"
equal "$(xb-snap list)" "" "list at the end"
echo "--- a file on a file system on a thin volume"
mkthin dom0a $vg/pool fs 800M
mkfs.xfs -q -m reflink=1 /dev/$vg/fs
mkdir srv
mount /dev/$vg/fs srv
dd if=/dev/urandom of=srv/disk bs=1M count=40 oflag=direct status=none
refused 73 "thin pool $vg-pool has only" xb-snap create /dev/$vg/t1 srv/disk
xb-snap guard --owner $$ >guarded 2>said &
guard=$!
snap=$(xb-snap create --size 20M --owner $$ srv/disk)
blkdiscard /dev/$vg/t2
lvextend -q -L 200M $vg/t2 >/dev/null
for ((at = 0; at < 200; at += 2)); do # until little is left of the pool, and much of the file system
	! xb-snap check "$snap" >/dev/null 2>&1 || dd if=/dev/urandom of=/dev/$vg/t2 bs=1M count=2 seek=$at oflag=direct status=none
done
check_is "$snap" 82
grep "given up: thin pool $vg-pool has only" said
kill $guard
status 143 wait $guard
xb-snap remove "$snap"
umount srv
lvremove -q -y $vg/fs
blkdiscard /dev/$vg/t2

echo "--- the pool's records are being read, which keeps all that they name"
guard # first, as in a run: it takes its time to begin
old=$(xb-snap create --size 20M --owner none /dev/$vg/t1)
new=$(xb-snap create --size 20M --owner $$ /dev/$vg/t1)
mkdir slow
printf '#!/bin/sh\n: >%s/reading\nexec sleep 1000\n' "$PWD" >slow/thin_delta
chmod 755 slow/thin_delta
PATH=$PWD/slow:$PATH xb-snap changes --since "$old" "$new" >extents 2>words &
changes=$!
until [ -e reading ]; do sleep 0.05; done
# All of it, for which there is no room. The 20 MiB of this small pool that are left to guests must last for as long as
# the guard starts half a dozen programs: a step starts two.
guest 1 2 &
guest=$!
wait $guest
check_is "$new" 82
check_is "$old" 82
awk '$1 >= $2 { print "the pool was full"; exit 1 }' uses
read -r blocks _ < <(used)
((blocks < 250 * 16)) || fail "$blocks blocks are used: those of the snapshots were not given back"
pkill -P $changes
status 82 wait $changes
[ ! -s extents ]
kill $guard
status 143 wait $guard
xb-snap remove "$old" "$new"

echo "--- a pool that is full already, because nobody watched"
snap=$(xb-snap create --size 100M --owner $$ /dev/$vg/t1)
dd if=/dev/urandom of=/dev/$vg/t2 bs=1M count=100 oflag=direct status=none # leaves too little for t1 to be there twice
dd if=/dev/urandom of=/dev/$vg/t1 bs=1M count=200 oflag=direct conv=notrunc 2>written &
writer=$!
until dmsetup status $pool | grep -q out_of_data_space; do sleep 0.1; done
xb-snap guard --owner $$ >guarded 2>said &
guard=$!
status 0 wait $writer
equal "$(cat guarded)" "$snap" "what was given up"
dmsetup status $pool | grep ' rw '
kill $guard
status 143 wait $guard
xb-snap remove "$snap"

equal "$(find /dev/$vg /dev/mapper -name '*xb-*')" "" "device nodes at the end"
