#!/bin/bash
# xb-snap on thick volumes: names, sizes, all or nothing, overflow, leftovers, busy ones, and refusals.
vg=xblab0
mklv dom0a $vg/vm1 32M
mklv dom0a $vg/vm-apart 4M
mklv dom0a $vg/web-1_data.x 12M
fill dom0a /dev/$vg/vm1
fill dom0a /dev/$vg/web-1_data.x

none_left() { [ -z "$(lvs --noheadings -o lv_name -S 'lv_tags={xen-backup}' $vg)" ] || fail "snapshots left: $1"; }
attr() { lvs --noheadings -o "$1" "$2" | tr -d ' '; }
write() { dd if=/dev/urandom of="$1" bs=4k seek="$2" count="$3" oflag=direct status=none; }
quiet() { "$@" >quiet.out 2>&1 || fail "status $?: $*: $(cat quiet.out)"; [ ! -s quiet.out ] || fail "not silent: $(cat quiet.out)"; }

# A snapshot that stays open: remove gives up, which takes half a minute, so it does so in a group of its own while
# the rest goes on.
mklv dom0a xblab1/held 4M
held=$(xb-snap create --owner none /dev/xblab1/held)
exec 9<"$held"
sleep 1000 &
holder=$!
exec 9<&-
{
	start=$SECONDS got=0
	xb-snap remove "$held" 2>held.err || got=$?
	echo "$got $((SECONDS - start < 120))" >held.result
} &
giving_up=$!

echo "--- two volumes at once, every form of a path"
a=$(digest dom0a /dev/$vg/vm1)
b=$(digest dom0a /dev/$vg/web-1_data.x)
forms=(/dev/mapper)
! campaign || forms+=("/dev/$vg")
for form in "${forms[@]}"; do
	if [ "$form" = /dev/mapper ]; then
		ln -s "/dev/mapper/$vg-vm1" link
		set -- link "/dev/mapper/$vg-web--1_data.x"
	else
		set -- "/dev/$vg/vm1" "/dev/dm-$(stat -Lc %T /dev/$vg/web-1_data.x | sed 's/^/0x/' | xargs printf %d)"
	fi
	xb-snap create --owner $$ "$@" >snaps 2>words
	[ ! -s words ] || fail "not silent: $(cat words)"
	mapfile -t snap <snaps
	[[ ${snap[0]} =~ ^/dev/$vg/xb-vm1-[a-z2-7]{8}$ && ${snap[1]} =~ ^/dev/$vg/xb-web-1_data.x-[a-z2-7]{8}$ ]] || fail "names: ${snap[*]}"
	write /dev/$vg/vm1 5 100
	write /dev/$vg/web-1_data.x 0 3
	equal "$(digest dom0a "${snap[0]}")" "$a" "the snapshot of vm1"
	equal "$(digest dom0a "${snap[1]}")" "$b" "the snapshot of web-1_data.x"
	a=$(digest dom0a /dev/$vg/vm1)
	b=$(digest dom0a /dev/$vg/web-1_data.x)
	status 1 dd if=/dev/zero of="${snap[0]}" bs=4k count=1 oflag=direct
	[[ $(xb-snap check "${snap[0]}") =~ ^[0-9.]+' % of 36.0 MiB used'$ ]] || fail "check: $(xb-snap check "${snap[0]}")"
	xb-snap list
	equal "$(xb-snap list | cut -f1 | sort)" "$(sort snaps - <<<"$held")" list
	equal "$(xb-snap list --json | jq -r 'map(.snapshot) | sort[]')" "$(sort snaps - <<<"$held")" "list --json"
	equal "$(xb-snap prune)" "" "prune with a living owner"
	quiet xb-snap remove "${snap[@]}"
	none_left remove
	refused 66 "no such" xb-snap remove "${snap[0]}"
	refused 66 "no such" xb-snap check "${snap[0]}"
done

echo "--- sizes: what is asked for, in whole extents, but not more than can be needed"
sizes=(5M:8388608)
! campaign || sizes+=(1G:37748736)
for size in "${sizes[@]}"; do
	s=$(xb-snap create --size "${size%:*}" /dev/$vg/vm1)
	equal "$(lvs --noheadings --units b --nosuffix -o lv_size "$s" | tr -d ' ')" "${size#*:}" "with --size ${size%:*} the store"
	xb-snap remove "$s"
done
if campaign; then
	s=$(xb-snap create /dev/$vg/vm1)
	fill dom0a /dev/$vg/vm1
	xb-snap check "$s"
	[ "$(attr lv_snapshot_invalid "$s")" = "" ] || fail "a store of the largest size overflowed"
	xb-snap remove "$s"
fi

echo "--- no room: 73, and nothing is left, not even of the first one"
free=$(vgs --noheadings --units m --nosuffix -o vg_free $vg | tr -d ' ')
mklv dom0a $vg/big "$((${free%.*} - 40))M"
refused 73 "40.0 MiB free, but the snapshots need 52.0 MiB" xb-snap create /dev/$vg/vm1 /dev/$vg/web-1_data.x
none_left "no room"
refused 73 "40.0 MiB free, but the snapshots need 72.0 MiB" xb-snap create --size 36M /dev/$vg/big /dev/$vg/vm1
none_left "no room"
lvremove -q -y $vg/big

echo "--- the last step fails: everything is undone"
status 74 xb-snap create /dev/$vg/vm1 /dev/$vg/web-1_data.x >/dev/full
none_left /dev/full

echo "--- a full snapshot is lost, and says so"
s=$(xb-snap create --size 4M --owner none /dev/$vg/vm1)
n=$(xb-snap create --size 32M --owner none /dev/$vg/vm1)
write /dev/$vg/vm1 0 2000
refused 82 "is lost: invalid" xb-snap check "$s"
refused 82 "is lost" xb-snap changes --since "$s" "$n"
refused 82 "is lost" xb-snap changes --since "$n" "$s"
xb-snap list | grep -P "^$s\t.*\tinvalid\tno owner$"
equal "$(xb-snap prune)" "" "prune of snapshots without an owner"
quiet xb-snap remove "$s" "$n"

echo "--- leftovers of the dead are pruned, and only those"
sleep 1000 &
dead=$!
mine=$(xb-snap create --owner $$ /dev/$vg/vm1)
theirs=$(xb-snap create --owner $dead /dev/$vg/vm1)
lvcreate -q -y -s -l 1 -n xb-vm1-aaaaaaaa $vg/vm1            # our name, not our tag
lvcreate -q -y -s -l 1 -n users --addtag xen-backup $vg/vm1 # our tag, not our name
equal "$(xb-snap prune)" "" "prune with living owners"
kill $dead
wait $dead || true
equal "$(xb-snap prune)" "$theirs" prune
mklv dom0a $vg/xb-web-database 4M # no snapshot, whatever its name and tag
lvchange -q --addtag xen-backup --addtag xen-backup.owner=none $vg/xb-web-database
lvextend -q -L +4M $vg/vm-apart # past the others: a second segment
lvchange -q -an $vg/vm-apart
for foreign in xb-vm1-aaaaaaaa users vm1 xb-web-database vm-apart; do refused 79 "not made by" xb-snap remove /dev/$vg/$foreign; done
lvremove -q -y $vg/users $vg/xb-vm1-aaaaaaaa $vg/xb-web-database
# A tag of another boot: its process number means nothing now.
lvchange -q --deltag "$(attr lv_tags "$mine" | tr , '\n' | grep owner)" --addtag "xen-backup.owner=$$.1.deadbeef" "$mine"
equal "$(xb-snap prune)" "$mine" "prune after a reboot"

echo "--- removal waits for whoever looks into the device"
s=$(xb-snap create /dev/$vg/vm1)
exec 9<"$s"
sleep 7 & # LVM's own patience is 5 s
exec 9<&-
quiet xb-snap remove "$s"

echo "--- refusals"
if campaign; then
	refused 66 "no such" xb-snap create /dev/$vg/nothing
	refused 66 "neither" xb-snap create /dev/null
	refused 78 "only of logical volumes" xb-snap create /dev/ubda
	refused 64 "same disk" xb-snap create /dev/$vg/vm1 /dev/mapper/$vg-vm1
	s=$(xb-snap create /dev/$vg/vm1)
	refused 78 "its origin" xb-snap create "$s"
	refused 78 "hidden part" xb-snap create "/dev/mapper/$vg-vm1-real"
	refused 64 "not a snapshot" xb-snap check /dev/$vg/vm1
	xb-snap remove "$s"
	mklv dom0a $vg/vm-work-private-snap 4M
	refused 78 "wyng" xb-snap create /dev/$vg/vm-work-private-snap
	long=$(printf 'a%.0s' {1..105})
	mklv dom0a "$vg/$long" 4M
	s=$(xb-snap create "/dev/$vg/$long")
	xb-snap list | cut -f1 | grep -xF "$s"
	xb-snap remove "$s"
fi
none_left refusals

echo "--- the one that is open"
wait $giving_up
equal "$(cat held.result)" "75 1" "the status of remove, and whether it took less than two minutes,"
grep 'in use' held.err
kill $holder
wait $holder || true
xb-snap remove "$held"
