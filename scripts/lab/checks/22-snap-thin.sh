#!/bin/bash
# xb-snap on thin volumes: active, no size, no full pool, changes from the pool's metadata.
vg=xblab0
thinpool dom0a $vg/pool 200M
mkthin dom0a $vg/pool t1 48M
fill dom0a /dev/$vg/t1
write() { dd if=/dev/urandom of="$1" bs=64k seek="$2" count="$3" oflag=direct status=none; }
held() { dmsetup status $vg-pool-tpool | cut -d' ' -f7; }

echo "--- a snapshot"
a=$(digest dom0a /dev/$vg/t1)
s0=$(xb-snap create --size 1G --owner none /dev/$vg/t1 2>words)
[ ! -s words ] || fail "not silent: $(cat words)"
[[ $(lvs --noheadings -o lv_attr "$s0" | tr -d ' ') =~ ^Vri-a-tz-- ]] || fail "$(lvs "$s0")"
write /dev/$vg/t1 5 7
equal "$(digest dom0a "$s0")" "$a" "the snapshot"
[[ $(xb-snap check "$s0") =~ ^'pool: '[0-9.]+' % of 200.0 MiB used, metadata '[0-9.]+' %'$ ]] || fail "$(xb-snap check "$s0")"
xb-snap list | grep -P "^$s0\t/dev/$vg/t1\tthin\t48.0 MiB\t-\tno owner$"

echo "--- changes"
blkdiscard -o 6M -l 1M /dev/$vg/t1
s1=$(xb-snap create --owner none /dev/$vg/t1)
write /dev/$vg/t1 700 1
xb-snap changes --since "$s0" "$s1" >extents
lists "$((5 * 65536)) $((7 * 65536)) $((6 << 20)) $((1 << 20))" changes
equal "$(held)" - "the metadata snapshot, afterwards,"
lvextend -q -L 52M $vg/t1
write /dev/$vg/t1 800 1
s2=$(xb-snap create --owner none /dev/$vg/t1)
xb-snap changes --since "$s1" "$s2" >extents
lists "$((700 * 65536)) 65536 $((48 << 20)) $((4 << 20))" "changes after the volume grew"
xb-snap changes --since "$s2" "$s1" >extents
lists "$((700 * 65536)) 65536" "changes towards the smaller one"

echo "--- a last block that is a short one, before the volume grew and after"
thinpool dom0a xblab1/pool "60M --chunksize 192k"
mkthin dom0a xblab1/pool odd 4M
fill dom0a /dev/xblab1/odd
o0=$(xb-snap create --owner none /dev/xblab1/odd)
dd if=/dev/urandom of=/dev/xblab1/odd bs=4k seek=1023 count=1 oflag=direct status=none
o1=$(xb-snap create --owner none /dev/xblab1/odd)
xb-snap changes --since "$o0" "$o1" >extents
lists "$((21 * 196608)) 65536" "changes in a short last block"
lvextend -q -L 8M xblab1/odd
o2=$(xb-snap create --owner none /dev/xblab1/odd)
xb-snap changes --since "$o1" "$o2" >extents
lists "$((21 * 196608)) $(((8 << 20) - 21 * 196608))" "changes after it grew behind a short last block"
lvreduce -q -y -f -L 4M xblab1/odd 2>/dev/null
o3=$(xb-snap create --owner none /dev/xblab1/odd)
xb-snap changes --since "$o2" "$o3" >extents
lists "" "changes after it shrank"
xb-snap remove "$o0" "$o1" "$o2" "$o3"

echo "--- what can't be compared"
mkthin dom0a $vg/pool t2 4M
refused 64 "writable" xb-snap changes --since "$s0" /dev/$vg/t1
refused 64 "writable" xb-snap changes --since /dev/$vg/t1 "$s0"
refused 64 "same snapshot" xb-snap changes --since "$s0" "$s0"
refused 64 "not a snapshot" xb-snap check /dev/mapper/$vg-pool-tpool
mklv dom0a $vg/thick 4M
thick=$(xb-snap create --owner none /dev/$vg/thick)
refused 64 "thick" xb-snap changes --since "$thick" "$s0"
xb-snap remove "$thick"

echo "--- a metadata snapshot that somebody else holds stays his; ours is taken back after a kill"
dmsetup message $vg-pool-tpool 0 reserve_metadata_snap
refused 75 "dmsetup message $vg-pool-tpool 0 release" xb-snap changes --since "$s0" "$s1"
[ "$(held)" != - ] || fail "somebody else's metadata snapshot was released"
dmsetup message $vg-pool-tpool 0 release_metadata_snap
lock=/var/lib/xen-backup/thin-pool-$(dmsetup info -c --noheadings -o uuid $vg-pool-tpool).lock
mkdir slow
cat >slow/thin_delta <<'X'
#!/bin/sh
: >"${0%/*}/reading"
exec sleep 1000
X
chmod 755 slow/thin_delta
for signal in KILL TERM; do
	rm -f slow/reading
	PATH=$PWD/slow:$PATH xb-snap changes --since "$s0" "$s1" >extents &
	pid=$!
	until [ -e slow/reading ]; do sleep 0.1; done
	[ "$(held)" != - ] || fail "no metadata snapshot while it is read"
	kill -$signal $pid
	wait $pid && fail "changes went on after SIG$signal"
	[ $signal = KILL ] || equal "$(held)" - "the metadata snapshot after SIGTERM"
	xb-snap changes --since "$s0" "$s1" >extents
	lists "$((5 * 65536)) $((7 * 65536)) $((6 << 20)) $((1 << 20))" "changes after SIG$signal"
	equal "$(held)" - "the metadata snapshot afterwards"
	[ ! -s "$lock" ] || fail "$lock still tells of a metadata snapshot"
done
echo "--- another program's is not taken for that of a killed run, which is gone; nor is one of nobody knows whom"
rm -f slow/reading
PATH=$PWD/slow:$PATH xb-snap changes --since "$s0" "$s1" >extents &
pid=$!
until [ -e slow/reading ]; do sleep 0.1; done
kill -KILL $pid
wait $pid || true
[ -s "$lock" ] || fail "$lock does not tell of the metadata snapshot that is held"
dmsetup message $vg-pool-tpool 0 release_metadata_snap
dmsetup message $vg-pool-tpool 0 reserve_metadata_snap
others=$(held)
[ "$others" != - ] || fail "no metadata snapshot of another program"
refused 75 "another program" xb-snap changes --since "$s0" "$s1"
equal "$(held)" "$others" "another program's metadata snapshot"
dmsetup message $vg-pool-tpool 0 release_metadata_snap
xb-snap changes --since "$s0" "$s1" >extents
equal "$(held)" - "the metadata snapshot after that"
cat >slow/thin_delta <<X
#!/bin/sh
dmsetup message $vg-pool-tpool 0 release_metadata_snap
dmsetup message $vg-pool-tpool 0 reserve_metadata_snap
exec $(command -v thin_delta) "\$@"
X
refused 75 "somebody else has released" env PATH="$PWD/slow:$PATH" xb-snap changes --since "$s0" "$s1"
[ "$(held)" != - ] || fail "the metadata snapshot that replaced ours was released"
dmsetup message $vg-pool-tpool 0 release_metadata_snap

printf '#!/bin/sh\necho "<superblock data_block_size=\\"128\\"><diff>"; exit 1\n' >slow/thin_delta
refused 69 thin_delta env PATH="$PWD/slow:$PATH" xb-snap changes --since "$s0" "$s1"
printf '#!/bin/sh\necho "<superblock data_block_size=\\"128\\"><diff>"\n' >slow/thin_delta
refused 69 thin_delta env PATH="$PWD/slow:$PATH" xb-snap changes --since "$s0" "$s1"
printf '#!/bin/sh\necho "<superblock data_block_size=\\"128\\"><diff><shared/>"; while echo; do :; done; exit 1\n' >slow/thin_delta
refused 69 "unexpected element <shared>" env PATH="$PWD/slow:$PATH" xb-snap changes --since "$s0" "$s1"
equal "$(held)" - "the metadata snapshot after a failure"

echo "--- two at once wait for each other"
xb-snap changes --since "$s0" "$s1" >one &
xb-snap changes --since "$s0" "$s1" >two
wait $!
cmp one two

echo "--- a pool that is nearly full"
mkthin dom0a $vg/pool t3 160M
dd if=/dev/zero of=/dev/$vg/t3 bs=1M count=134 oflag=direct status=none
sync
refused 73 "thin pool $vg-pool has only" xb-snap create /dev/$vg/t1
lvremove -q -y $vg/t3
xb-snap remove "$(xb-snap create --owner none /dev/$vg/t1)"

echo "--- a leftover that is not active is found by name"
lvchange -an "$s0"
refused 66 "not active\|no such" xb-snap check "$s0"
xb-snap remove "$s0" "$s1" "$s2"
equal "$(xb-snap list)" "" "list at the end"
