#!/bin/bash
# lab: campaign
# Bases on logical volumes: kept, offered only while they certainly are what they were, pruned, and nothing else.
vg=xblab0
thinpool dom0a $vg/pool 200M
mkthin dom0a $vg/pool thin 32M
mklv dom0a $vg/thick 32M
fill dom0a /dev/$vg/thin
fill dom0a /dev/$vg/thick
taken=2026-11-26T23:47:28Z
: >empty
xb-sig empty >sig
owner() { lvs --noheadings -o lv_tags "$1" | grep -o 'owner=[^,]*'; }

# sends SNAP: its image, as a run sends it; the summary is in ./summary.
sends() { xb-delta --signature sig --summary summary "$1" >sent.delta; }

# kept PEER SOURCE [OPTION]...: a snapshot, sent and kept; its path in $snap, its image in $image.
kept() {
	snap=$(xb-snap create --size 8M --owner $$ "$2")
	sends "$snap"
	image=$(jq -r '"\(.hash):\(.block_size):\(.image_size):\(.digest)"' summary)
	xb-snap keep --for "$1" --disk "vm/${2##*/}" --summary summary --taken $taken "${@:3}" "$snap"
}
# base SOURCE: the records that are offered to dom0b
base() { xb-snap base --peer dom0b "$1" | jq -r '"\(.status) \(.snapshot) \(.image)"'; }
record() { xb-patch --record "$1" --peer dom0b --disk "vm/${1##*/}" --target /dev/x --stages "0 0 0" --sent summary </dev/null >/dev/null; }
unusable() { # WORDS SOURCE: none is offered, and these are why
	xb-snap base --peer dom0b "$2" >out 2>why
	[ ! -s out ] || fail "offered: $(cat out)"
	grep -q -- "$1" why || fail "not saying '$1': $(cat why)"
}

for kind in thin thick; do
	disk=/dev/$vg/$kind
	echo "--- $kind: from pending to sent"
	equal "$(base $disk)" "" "bases at first"
	kept dom0b $disk
	equal "$(owner "$snap")" owner=base:dom0b "the owner"
	equal "$(blockdev --getro "$snap")" 1 "the kernel's flag"
	equal "$(base $disk)" "pending $snap $image" "what is offered"
	equal "$(base "/dev/mapper/$vg-$kind")" "pending $snap $image" "what is offered by another name"
	record $disk
	equal "$(base $disk)" "sent $snap $image" "what is offered after the answer"
	first=$snap first_image=$image
	equal "$(xb-snap prune; xb-snap prune --bases --peers dom0b)" "" "what is pruned"
	dd if=/dev/urandom of=$disk bs=4k count=5 oflag=direct status=none
	kept dom0b $disk --basis "$first_image"
	equal "$(base $disk)" "sent $first $first_image
pending $snap $image" "what is offered when an answer was lost"
	xb-snap keep --for root@dom0c --disk vm/$kind --summary summary --taken $taken "$snap"
	xb-snap list | grep -P "^$snap\t.*\tbase of dom0b, root@dom0c$"
	record $disk
	equal "$(xb-snap prune --bases)" "$first" "what a later base replaced"
	xb-snap changes --since "$snap" "$(xb-snap create --size 8M --owner $$ $disk)" >extents
	lists "" "changes since the base"

	echo "--- $kind: what it was, or nothing"
	lvchange -q -prw "$snap"
	unusable "can be written to" $disk
	lvchange -q -pr "$snap"
	equal "$(base $disk)" "sent $snap $image" "what is offered when nobody can write any more"
	active=$snap
	[ $kind = thin ] || active=$disk # which its snapshots follow
	lvchange -q -an "$active"
	xb-snap base --peer dom0b "$disk" >out 2>why || :
	[ ! -s out ] || fail "offered while it is not active: $(cat out)"
	lvchange -q -ay "$active"
	equal "$(base $disk)" "sent $snap $image" "what is offered after it was activated again"
	lvrename -q $vg "${snap##*/}" aside >/dev/null
	room=(-L 8M)
	[ $kind = thick ] || room=(-kn)
	lvcreate -q -y -s -pr -n "${snap##*/}" "${room[@]}" $vg/$kind >/dev/null
	unusable "is not what it was" $disk
	lvremove -q -y "$snap"
	unusable "no such" $disk
	lvrename -q $vg aside "${snap##*/}" >/dev/null
	equal "$(base $disk)" "sent $snap $image" "what is offered again"
	xb-snap remove --unless-kept "$snap"
	xb-snap remove "$snap"
	unusable "no such" $disk
	equal "$(xb-snap prune --bases)" "" "what is pruned of one that is gone"

	echo "--- $kind: killed between its two steps"
	mkdir -p killed
	cat >killed/lvchange <<'K'
#!/bin/sh
kill -KILL $PPID
K
	chmod 755 killed/lvchange
	sleep 1000 &
	run=$!
	snap=$(xb-snap create --size 8M --owner $run $disk)
	sends "$snap"
	status 137 env PATH="$PWD/killed:$PATH" xb-snap keep --for dom0b --disk vm/$kind --summary summary --taken $taken "$snap"
	equal "$(xb-snap prune --bases)" "" "what is pruned as a base"
	kill $run
	wait $run || true
	equal "$(xb-snap prune)" "$snap" "what is pruned as a leftover"
	unusable "no such" $disk
	kept dom0b $disk
	equal "$(base $disk)" "pending $snap $image" "what is offered after the next run"
done

echo "--- those of another state directory or host stay, and those that a lost record named go"
for kind in thin thick; do
	kept dom0b /dev/$vg/$kind
	equal "$(xb-snap prune --bases --peers "" --state-dir "$PWD/other")" "" "what is pruned by another state directory"
	xb-snap list --state-dir "$PWD/other" | grep -P "^$snap\t.*\tbase of another host or state directory$"
	[ -e /etc/machine-id ] || : >/etc/machine-id
	echo another >machine-id
	unshare -m sh -c 'mount --bind machine-id /etc/machine-id && exec xb-snap prune --bases --peers ""' >pruned
	equal "$(cat pruned)" "" "what is pruned by another host"
	rm -r "/var/lib/xen-backup/bases/vm%2F$kind"
	xb-snap prune --bases >pruned
	grep -qxF "$snap" pruned || fail "not pruned when its record is lost: $(cat pruned)"
	xb-snap list | { ! grep -P "/dev/$vg/$kind\t.*\tbase"; }
done

echo "--- one that was written to, and of which nobody can see it any more"
for kind in thin thick; do
	kept dom0b /dev/$vg/$kind
	lvchange -q -prw "$snap"
	dd if=/dev/urandom of="$snap" bs=4k count=1 oflag=direct status=none
	lvchange -q -pr "$snap"
	unusable "was written to" /dev/$vg/$kind
	refused 82 "was written to" xb-snap keep --for dom0c --disk vm/$kind --summary summary --taken $taken "$snap"
	xb-snap remove "$snap"
	kept dom0b /dev/$vg/$kind
	xb-snap prune --bases
done

echo "--- thin: a base of another size, and one whose origin is another one now"
snap=$(lvs --noheadings -o lv_path -S 'lv_tags={xen-backup} && segtype=thin && lv_tags={"xen-backup.owner=base:dom0b"}' $vg | tr -d ' ')
lvchange -q -prw "$snap"
lvextend -q -L 40M "$snap" >/dev/null
lvchange -q -pr "$snap"
unusable "is not what it was" /dev/$vg/thin
lvremove -q -y $vg/thin
mkthin dom0a $vg/pool thin 32M
unusable "its origin was removed\|it is of what was called" /dev/$vg/thin

echo "--- a user's own stays, and all bases go with their peers"
own=$(xb-snap create --size 8M --owner none /dev/$vg/thick)
sends "$own"
refused 64 "somebody's own" xb-snap keep --for dom0b --disk vm/thick --summary summary --taken $taken "$own"
xb-snap prune --bases --peers "" >pruned
equal "$(wc -l <pruned)" 2 "the number of bases that were pruned"
xb-snap list --json | jq -r '.[] | select(.owner != "none" and (.owner | startswith("base"))) | .snapshot' >left
[ ! -s left ] || fail "left: $(cat left)"
xb-snap check "$own"
xb-snap list | cut -f1 | xargs xb-snap remove
