#!/bin/bash
# lab: campaign
# Random histories of a DomU with a thin and a thick disk, of which the storage tells what changes. After each run both
# standbys are what the disks are, or, where something failed, what they were; and what is remembered of them is what a
# full reading finds. A history is known by its seed, a number: XB_CAMPAIGN_SEED is that of the first one (1). It is one,
# of two runs; XB_CAMPAIGN makes it twice so many, up to 50, of four.
vg=xblab0
disks=("/dev/$vg/thin" "/dev/$vg/thick")
thinpool dom0a $vg/pool 160M
thinpool dom0b $vg/pool 160M
mkthin dom0a $vg/pool thin 8M
mkthin dom0b $vg/pool thin 12M # as large as the disk may become
for host in dom0a dom0b; do mklv $host $vg/thick 8M; done
for disk in "${disks[@]}"; do fill dom0a "$disk"; done
testdomain dom0a web1 "${disks[@]}"
conf dom0a 1 DOMU=web1 'DOM0S="dom0a dom0b"' TRACK=yes SNAPSHOT_SIZE=8M
cat >/usr/local/sbin/ssh <<'X'
#!/bin/bash
# Fails once, as /run/lab/fails tells: OPTION none|lost|waits
[ -e /run/lab/fails ] || exec /usr/bin/ssh "$@"
read -r option how </run/lab/fails
[[ " $* " = *" $option "* ]] && rm /run/lab/fails 2>/dev/null || exec /usr/bin/ssh "$@"
case $how in
lost) /usr/bin/ssh "$@" ;;
waits) : >/run/lab/waits && sleep 1000 ;;
esac
exit 255
X
chmod 755 /usr/local/sbin/ssh

# Neither of these in a subshell, which has random numbers of its own.
chance() { ((RANDOM % 100 < $1)); } # PERCENT
pick() { shift $((RANDOM % $#)) && picked=$1; }

tell() { echo "$(cut -d. -f1 /proc/uptime) s: $*"; }
base_of() { xb-snap list | awk -F '\t' -v o="$1" '$1 ~ "-" o "-" && /\tbase of dom0b$/ { print $1 }' | tail -n 1; }

# writes DISK: what a guest does.
writes() {
	local n
	for ((n = RANDOM % 4; n > 0; n--)); do
		dd if=/dev/urandom of="$1" bs=4k seek=$((RANDOM % 2040)) count=$((1 + RANDOM % 8)) oflag=direct iflag=fullblock status=none
	done
	! chance 25 || blkdiscard -z -o $((RANDOM % 124 * 65536)) -l 131072 "$1"
	! { [ "$1" = /dev/$vg/thin ] && chance 50; } || blkdiscard -o $((RANDOM % 124 * 65536)) -l 262144 "$1"
}

resize() { # MIB: of the thin disk
	tell "the thin disk has $1 MiB"
	lvresize -q -f -L "$1M" $vg/thin >/dev/null 2>&1
	size=$1
}

spoil_bases() {
	local disk base
	pick thin thick
	disk=$picked
	base=$(base_of "$disk")
	pick gone all forgotten foreign written
	tell "the base of $disk: $picked"
	[ -n "$base" ] || return 0
	case $picked in
	gone) xb-snap remove "$base" ;;
	all) xb-snap prune --bases --peers "" >/dev/null ;;
	forgotten) rm -r /var/lib/xen-backup/bases ;;
	written)
		lvchange -q -prw "$base"
		dd if=/dev/urandom of="$base" bs=4k count=1 oflag=direct status=none
		lvchange -q -pr "$base"
		;;
	foreign) # another snapshot has its name
		xb-snap remove "$base"
		foreign=$vg/${base##*/}
		if [ "$disk" = thin ]; then
			lvcreate -q -y -s -pr -kn -n "${base##*/}" $vg/thin >/dev/null
		else
			lvcreate -q -y -s -pr -L 8M -n "${base##*/}" $vg/thick >/dev/null
		fi
		;;
	esac
}

spoil_standbys() {
	pick written lost read
	tell "a standby: $picked"
	case $picked in
	written)
		pick "${disks[@]}"
		onb "dd if=/dev/urandom of=$picked bs=4k seek=$((RANDOM % 2048)) count=1 oflag=direct status=none"
		written=$picked want=old
		;;
	lost) onb "rm -r /var/lib/xen-backup/*" ;; # what is remembered of it
	read) onb "cat ${disks[*]} >/dev/null" ;;
	esac
}

spoil_run() {
	pick "--auto none" "--auto lost" "--commit none" "--commit lost" "--prepare none" "--commit waits"
	tell "fails: $picked"
	fails=$picked
	echo "$fails" >/run/lab/fails
	[ "$fails" = "--commit lost" ] || want=old
}

# standbys: of each a line: what the image in it is, what is remembered of it, and what a full reading of it finds.
standbys() {
	onb "see() { dd if=\$1 bs=1M count=\$2 iflag=direct status=none | sha256sum | cut -d' ' -f1
			xb-patch --state \$1 | jq -r '.phase + \" \" + .digest'
			xb-sig --summary /run/lab/found \$1 >/dev/null; jq -r '\"clean \" + .digest' /run/lab/found; }
		see ${disks[0]} $size | xargs; see ${disks[1]} 8 | xargs"
}

# look: each standby is what its disk is (want=new), or was (old), and it is known what that is.
look() {
	local i now image state found
	mapfile -t now < <(standbys)
	for i in 0 1; do
		read -r image state found < <(awk '{ print $1, $2 $3, $4 $5 }' <<<"${now[i]-}")
		if [ $want = new ]; then
			equal "$image" "$(digest dom0a "${disks[i]}")" "after a good run ${disks[i]} on dom0b"
		else
			equal "$image" "${was[i]%% *}" "after a run that failed ${disks[i]} on dom0b"
		fi
		[ -n "$written" ] || equal "$state" "$found" "what is remembered of ${disks[i]}"
	done
}

# run: as it has to end, which $want and $fails tell.
run() {
	local got=0 copied in_full
	if [ "$fails" = "--commit waits" ]; then
		start
		until [ -e /run/lab/waits ]; do sleep 0.1; done
		kill_run
		rm /run/lab/waits
		[ -z "$foreign" ] || lvremove -q -y "$foreign"
		return
	fi
	backup dom0a >/dev/null || got=$?
	case $want$fails in
	new) equal $got 0 "the status of a good run" ;;
	*) equal $got 3 "the status of a run in which something failed" ;;
	esac
	copied=$(grep -c ' bytes changed, ' /run/syslog) in_full=$(grep -c ' compared in full: ' /run/syslog) || true # none
	: >/run/syslog
	[ $got != 0 ] || good=$((good + 1)) tracked=$((tracked + copied - in_full)) full=$((full + in_full))
	[ -z "$foreign" ] || lvremove -q -y "$foreign"
	nothing_left
}

# step: what happens between two runs, and the run.
step() {
	foreign='' written='' fails='' want=new was=()
	for disk in "${disks[@]}"; do writes "$disk"; done
	if ((!first)); then
		! chance 15 || resize $((20 - size))
		! chance 35 || spoil_bases
		if chance 20; then spoil_standbys; elif chance 40; then spoil_run; fi
		[ $want = new ] || mapfile -t was < <(standbys)
	fi
	tell "run"
	runs=$((runs + 1))
	run
	look
	[ -n "$written" ] || return 0
	tell "its changes may be lost: run" # and it is a good one again
	onb "xb-patch -q --discard-changes $written"
	written='' want=new foreign=''
	runs=$((runs + 1))
	run
	look
}

seed=${XB_CAMPAIGN_SEED:-1} histories=$((${XB_CAMPAIGN:+2 * }${XB_CAMPAIGN:-1})) steps=${XB_CAMPAIGN:+4}
runs=0 good=0 tracked=0 full=0 size=8
((histories < 50)) || histories=50
for ((last = seed + histories - 1; seed <= last; seed++)); do
	echo "--- history $seed"
	RANDOM=$seed
	[ "$size" = 8 ] || resize 8
	for ((i = 0; i < ${steps:-2}; i++)); do
		first=$((i == 0))
		step
	done
	xb-snap prune --bases --peers "" >/dev/null
	rm -r /var/lib/xen-backup/*
	onb "rm -r /var/lib/xen-backup/*"
done
echo "$histories histories, $runs runs, $((runs - good)) of them failed as they had to: $tracked disks were copied tracked, and" \
	"$full in full"
((tracked > 0)) || fail "no disk was copied tracked"
