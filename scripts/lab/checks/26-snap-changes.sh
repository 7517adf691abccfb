#!/bin/bash
# xb-snap changes on thick volumes: what two snapshots differ in is always among the extents, whatever happens
# meanwhile, and they are not much more.
vg=xblab0
mklv dom0a $vg/vm1 16M
fill dom0a /dev/$vg/vm1
write() { dd if=/dev/urandom of="$1" bs=4k seek="$2" count="$3" oflag=direct status=none; }

# covered OLD NEW: every 4 KiB block in which the two differ is in the file extents, which is in order and whole.
covered() {
	perl -e 'open OLD, $ARGV[0] and open NEW, $ARGV[1] or die;
		for (; read(OLD, $old, 4096) && read(NEW, $new, 4096); $n++) { print $n + 0, "\n" if $old ne $new }' "$1" "$2" >differ
	equal "$(tail -n 1 extents | cut -d' ' -f1)" end "the last line's first word"
	sed '$d' extents >list
	awk '{ if ($1 < end || $2 <= 0 || (NR > 1 && $1 == end)) { print "bad line " NR ": " $0; exit 1 } end = $1 + $2 }' list
	awk '{ for (b = int($1 / 4096); b * 4096 < $1 + $2; b++) print b }' list >listed
	missing=$(comm -23 <(sort differ) <(sort listed) | wc -l)
	echo "differ: $(wc -l <differ) blocks, listed: $(wc -l <listed)"
	equal "$missing" 0 "the number of blocks that differ and are not listed"
}

echo "--- exact"
s0=$(xb-snap create --owner none /dev/$vg/vm1)
s1=$(xb-snap create --owner none /dev/$vg/vm1)
xb-snap changes --since "$s0" "$s1" >extents
lists "" "without a write"
xb-snap remove "$s1"
write /dev/$vg/vm1 7 1
write /dev/$vg/vm1 8 2
write /dev/$vg/vm1 4095 1
write /dev/$vg/vm1 300 1
s1=$(xb-snap create --owner none /dev/$vg/vm1)
xb-snap changes --since "$s0" "$s1" >extents
lists "28672 12288 1228800 4096 16773120 4096" "changes"
covered "$s0" "$s1"

echo "--- many, over several lists of the store, with a writer going on"
(while [ ! -e enough ]; do write /dev/$vg/vm1 $((RANDOM % 4096)) 1; done) &
writer=$!
for i in $(seq 0 200 4000); do write /dev/$vg/vm1 "$i" 24; done
s2=$(xb-snap create --owner none /dev/$vg/vm1)
xb-snap changes --since "$s0" "$s2" >extents
covered "$s0" "$s2"
: >enough
wait $writer # and for its last write, which a kill would leave behind

echo "--- writes to the snapshots themselves, and another chunk size"
lvcreate -q -y -s -n old -L 16M -c 64k $vg/vm1
write /dev/$vg/vm1 1000 1
lvcreate -q -y -s -n new -L 16M $vg/vm1
write /dev/$vg/old 2000 1
write /dev/$vg/new 3000 1
xb-snap changes --since /dev/$vg/old /dev/$vg/new >extents
covered /dev/$vg/old /dev/$vg/new
lists "$((62 * 65536)) 65536 $((125 * 65536)) 65536 $((3000 * 4096)) 4096" "changes"

echo "--- a volume that grew: all that was added counts, and what was written to it is no damage of a store"
mklv dom0a $vg/grown 16M
fill dom0a /dev/$vg/grown
g0=$(xb-snap create --owner none /dev/$vg/grown)
lvchange -an $vg/grown
lvextend -q -L 24M $vg/grown
lvchange -ay $vg/grown
g1=$(xb-snap create --owner none /dev/$vg/grown)
xb-snap changes --since "$g0" "$g1" >extents
lists "$((16 << 20)) $((8 << 20))" "changes of a volume that grew"
write /dev/$vg/grown 5 1
write /dev/$vg/grown 5000 1
xb-snap changes --since "$g0" "$g1" >extents
lists "20480 4096 $((16 << 20)) $((8 << 20))" "changes of a volume that grew and was written to"
covered "$g0" "$g1"
xb-snap changes --since "$g1" "$g0" >extents
lists "20480 4096" "changes towards the smaller one"
xb-snap remove "$g0" "$g1"
lvremove -q -y $vg/grown

echo "--- what can't be compared"
mklv dom0a $vg/vm2 4M
other=$(xb-snap create --owner none /dev/$vg/vm2)
refused 64 "same snapshot" xb-snap changes --since "$s0" "$s0"
refused 64 "different origins" xb-snap changes --since "$s0" "$other"
refused 64 "not a snapshot" xb-snap changes --since /dev/$vg/vm1 "$s0"
refused 64 "not a snapshot" xb-snap changes --since "$s0" /dev/$vg/vm1
refused 66 "no such" xb-snap changes --since "$s0" /dev/$vg/nothing
status 74 xb-snap changes --since "$s0" "$s1" >/dev/full

echo "--- an overflow while the records are read, which takes the store away under them"
small=$(xb-snap create --size 4M --owner none /dev/$vg/vm1)
(write /dev/$vg/vm1 0 2000) & # twice what the store holds
while campaign && kill -0 $! 2>/dev/null; do
	if xb-snap changes --since "$small" "$s2" >extents 2>words; then
		covered "$small" "$s2" || true # may be lost before it can be compared
	else
		[ $? = 82 ] || fail "$(cat words)"
		break
	fi
done
wait
refused 82 "is lost" xb-snap changes --since "$small" "$s2"
lvremove -q -y $vg/old $vg/new
xb-snap remove "$s0" "$s1" "$s2" "$other" "$small"
