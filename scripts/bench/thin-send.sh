#!/bin/bash
# Ours beside thin_send | thin_recv, which learn from a thin pool what has changed, too: the same change of the same
# volume to two copies of it on the other host, over ssh, until it is on the disks there. A check of the lab, which only
# `scripts/bench/run --thin-send` runs.
vg=xblab0 mib=192 rounds=3
pool=$vg/pool disk=/dev/$vg/thin ours=/dev/$vg/ours theirs=$vg/theirs
thinpool dom0a $pool 800M
thinpool dom0b $pool 800M
mkthin dom0a $pool thin ${mib}M
mkthin dom0b $pool ours ${mib}M
mkthin dom0b $pool theirs ${mib}M

# real data; the pipe breaks
find /usr -xdev -type f -print0 | sort -z | xargs -0 cat 2>/dev/null |
	dd of=$disk bs=1M count=$mib oflag=direct iflag=fullblock status=none || true

# change nothing|scattered|runs: 1 % of the blocks, evenly spread, or 10 % in runs of 1 to 16 MiB.
change() {
	[ "$1" = nothing ] || mutate "$1" "$old" $disk
	blockdev --flushbufs $disk
}

snapshot() { xb-snap create --owner $$ $disk; }
# keep SNAP: it is what both copies hold; what it is known by is in ./record.
keep() {
	xb-snap guard --bases --once # which somebody has to do where the pool cannot hold all twice
	xb-snap keep --for dom0b --disk vm/thin --summary summary --taken 2026-11-26T23:47:28Z "$1"
	xb-patch --record $disk --peer dom0b --disk vm/thin --target $ours --stages "0 0 0" --sent summary </dev/null >record
	xb-snap base --peer dom0b $disk >record
	xb-snap prune --bases >/dev/null
	old=$1
}
there() { ssh -F none -S /run/lab/ssh-dom0b dom0b "$*"; } # over the connection of the helpers

ours() {
	xb-snap changes --since "$old" "$snap" |
		xb-delta --since "$old" --basis record --summary summary "$snap" | there xb-patch $ours
}
theirs() { thin_send "$old" "$snap" | there "thin_recv $theirs && sync /dev/$theirs"; }
theirs_zstd() { thin_send "$old" "$snap" | zstd -q -1 | there "zstd -q -d | thin_recv $theirs && sync /dev/$theirs"; }

# timed WHAT COMMAND: its milliseconds are a line of ./times.
timed() {
	local start=${EPOCHREALTIME/./}
	"$2"
	echo "$1 $2 $(((${EPOCHREALTIME/./} - start) / 1000))" >>"times"
}
sent() { echo "$1 $2 $3" >>"bytes"; }

echo "the first copies"
snap=$(snapshot)
there xb-sig $ours | xb-delta --summary summary "$snap" | there xb-patch -q $ours
thin_send "$snap" | there "thin_recv $theirs && sync /dev/$theirs"
keep "$snap"
for what in nothing scattered runs; do
	for ((round = 0; round < rounds; round++)); do
		change $what
		snap=$(snapshot)
		tools=(ours theirs theirs_zstd)
		for ((i = 0; i < 3; i++)); do timed $what "${tools[(round + i) % 3]}"; done
		sent $what ours "$(jq .bytes_sent summary)"
		sent $what theirs "$(thin_send "$old" "$snap" | wc -c)"
		sent $what theirs_zstd "$(thin_send "$old" "$snap" | zstd -q -1 | wc -c)"
		same $disk $ours
		same $disk /dev/$theirs
		keep "$snap"
		echo "$what, round $round: $(tail -n 3 times | xargs); $(tail -n 3 bytes | xargs)"
	done
done

echo "what a receiver says, and what is there then"
change scattered
snap=$(snapshot)
xb-snap changes --since "$old" "$snap" | xb-delta --since "$old" --basis record --summary summary "$snap" >ours.stream
thin_send "$old" "$snap" >theirs.stream
# flip FILE: one bit in the middle, in the data
flip() {
	local at=$(($(stat -c %s "$1") / 2)) byte
	byte=$(od -An -tu1 -j $at -N 1 "$1")
	printf '%b' "\\x$(printf %02x $((byte ^ 1)))" | dd of="$1" bs=1 seek=$at conv=notrunc status=none
}
# receives WORDS FILE DEVICE COMMAND: what it says, and which of the images is there then
receives() {
	local got=0 now is=neither
	there "$4" <"$2" >/dev/null 2>said || got=$?
	now=$(digest dom0b "$3")
	[ "$now" != "$(digest dom0a "$old")" ] || is=old
	[ "$now" != "$(digest dom0a "$snap")" ] || is=new
	echo "proof: $1: status $got, the image is $is"
}
for of in ours theirs; do
	head -c $(($(stat -c %s $of.stream) / 2)) $of.stream >$of.cut
	cp $of.stream $of.flipped
	flip $of.flipped
done
receives "cut in the middle, ours" ours.cut $ours "xb-patch $ours"
receives "cut in the middle, thin_recv" theirs.cut /dev/$theirs "thin_recv $theirs"
receives "one bit flipped, ours" ours.flipped $ours "xb-patch $ours"
receives "one bit flipped, thin_recv" theirs.flipped /dev/$theirs "thin_recv $theirs"
rm ./*.cut ./*.flipped
receives "sent again, ours" ours.stream $ours "xb-patch $ours"
receives "sent again, thin_recv" theirs.stream /dev/$theirs "thin_recv $theirs"
keep "$snap"
onb "dd if=/dev/urandom of=$ours bs=4k seek=100 count=1 oflag=direct status=none
	dd if=/dev/urandom of=/dev/$theirs bs=4k seek=100 count=1 oflag=direct status=none"
snap=$(snapshot)
xb-snap changes --since "$old" "$snap" | xb-delta --since "$old" --basis record --summary summary "$snap" >ours.stream
thin_send "$old" "$snap" >theirs.stream
receives "somebody wrote to the copy, ours" ours.stream $ours "xb-patch $ours"
receives "somebody wrote to the copy, thin_recv" theirs.stream /dev/$theirs "thin_recv $theirs"

echo "table: of $mib MiB changed | thin_send, thin_recv | with zstd -1 | ours | ours : thin_send | : with zstd"
median() { awk -v a="$1" -v b="$2" '$1 == a && $2 == b { print $3 }' "$3" | sort -n | sed -n "$((rounds / 2 + 1))p"; }
for what in nothing scattered runs; do
	for file in bytes times; do
		awk -v what="$what, $([ $file = bytes ] && echo "bytes sent" || echo "ms")" -v t="$(median $what theirs $file)" \
			-v z="$(median $what theirs_zstd $file)" -v o="$(median $what ours $file)" \
			'BEGIN { printf "table: %s | %d | %d | %d | %.3f | %.3f\n", what, t, z, o, o / t, o / z }'
	done
done
xb-snap prune --bases --peers "" >/dev/null
xb-snap list | cut -f1 | xargs -r xb-snap remove
