# shellcheck shell=bash disable=SC2029,SC2016 # words are expanded on both sides, knowingly
# Helpers for checks; README.md lists them. Bash reads this before each check (BASH_ENV); shells that the check
# starts shall not.
unset BASH_ENV
ssh_options=(-o BatchMode=yes -o ConnectTimeout=10 -o ControlMaster=auto -o ControlPath=/run/lab/ssh-%h -o ControlPersist=600)

# The line of the check (not of a helper) that failed, and the command.
set -E
failed() { echo "$(basename "$0") line ${BASH_LINENO[-2]}: status $1: $2" >&2; }
trap 'failed $? "$BASH_COMMAND"' ERR

fail() { echo "FAILED: $*" >&2; exit 1; }
skip() { echo "$*"; exit 77; }

# on HOST COMMAND: the words joined and run by a strict bash there, as ssh does it.
on() {
	local host=$1 command
	shift
	command="set -euo pipefail; $*"
	if [ "$host" = "$HOSTNAME" ]; then bash -c "$command"; else ssh "${ssh_options[@]}" "$host" "$command"; fi
}
onb() { on dom0b "$@"; }

# equal GOT WANT WHAT
equal() { [ "$1" = "$2" ] || fail "$3 is '$1', not '$2'"; }

# campaign: this run is to take long, and to try all that there is.
campaign() { [ -n "${XB_CAMPAIGN-}" ]; }

# status WANT COMMAND...: the command must end with this exit status.
status() {
	local want=$1 got=0
	shift
	"$@" || got=$?
	[ "$got" = "$want" ] || fail "status $got, not $want: $*"
}

# refused STATUS WORDS COMMAND...: the command must end with this exit status, say the words (a basic regular
# expression) on stderr, and print nothing.
refused() {
	local want=$1 words=$2 got=0
	shift 2
	"$@" >refused.out 2>refused.err || got=$?
	if [ "$got" != "$want" ] || [ -s refused.out ] || ! grep -q -- "$words" refused.err; then
		fail "status $got, not $want, or not saying '$words': $*: $(cat refused.out refused.err)"
	fi
}

# lists WORDS WHAT: the file extents, which xb-snap changes has printed, has these numbers, and at last how many there
# are.
lists() {
	local end
	end=$(awk '$1 != "end" { n++; bytes += $2 } END { printf "end %d %d\n", n, bytes }' extents)
	equal "$(xargs <extents)" "${1:+$1 }$end" "$2"
}

# --- storage: HOST is dom0a or dom0b; what is made here is removed after the check ---

made() { echo "$1:$2" >>/run/lab/made; }

# mklv HOST VG/NAME SIZE
mklv() {
	made "$1" "$2"
	on "$1" "lvcreate -q -y -n ${2#*/} -L $3 ${2%/*} >/dev/null; sync"
}

# thinpool HOST VG/NAME SIZE, and thin volumes in it: mkthin HOST VG/POOL NAME SIZE
thinpool() {
	made "$1" "$2"
	on "$1" "lvcreate -q -y --type thin-pool -n ${2#*/} -L $3 ${2%/*} >/dev/null; sync"
}
mkthin() {
	made "$1" "${2%/*}/$3"
	# LVM warns of every pool that could overflow
	on "$1" "lvcreate -q -y -V $4 -T $2 -n $3 2>&1 >/dev/null | sed /WARNING/d >&2; sync"
}

# fill HOST DEVICE: random bytes from end to end.
fill() { on "$1" "dd if=/dev/urandom of=$2 bs=1M oflag=direct iflag=fullblock count=\$((\$(blockdev --getsize64 $2) >> 20)) status=none"; }

# digest HOST DEVICE [MIB]: SHA-256 of the whole device or its first MIB, past the page cache.
digest() { on "$1" "dd if=$2 bs=1M iflag=direct status=none ${3:+count=$3} | sha256sum | cut -d' ' -f1"; }

# same DEVICE_A [DEVICE_B]: dom0a's device and dom0b's hold the same bytes.
same() {
	local a b
	a=$(digest dom0a "$1")
	b=$(digest dom0b "${2:-$1}")
	[ "$a" = "$b" ] || fail "dom0a:$1 and dom0b:${2:-$1} differ"
}

# faulty HOST NAME DEVICE FROM COUNT: /dev/mapper/xblabdev-NAME is DEVICE, but reading or writing these sectors
# gives EIO.
faulty() {
	on "$1" "n=\$(blockdev --getsz $3); dmsetup create xblabdev-$2 <<X
$([ "$4" = 0 ] || echo "0 $4 linear $3 0")
$4 $5 error
$(($4 + $5)) \$((n - $4 - $5)) linear $3 $(($4 + $5))
X"
}

# flakey HOST NAME DEVICE FEATURE: the same with dm-flakey's error_writes or drop_writes (says done, does
# nothing) for all sectors.
flakey() {
	on "$1" "modprobe dm-flakey; dmsetup create xblabdev-$2 --table \"0 \$(blockdev --getsz $3) flakey $3 0 0 3600 1 $4\""
}

# heal HOST NAME DEVICE: from now on the same device is DEVICE without a fault.
heal() {
	on "$1" "dmsetup suspend xblabdev-$2; dmsetup load xblabdev-$2 --table \"0 \$(blockdev --getsz $3) linear $3 0\"; dmsetup resume xblabdev-$2"
}

# slow HOST VG/LV: from now on each write of up to 1 MiB to this LV, and each flush, takes 5 s. A power cut undoes it.
slow() {
	on "$1" "modprobe dm-delay; d=${2/\//-}; dmsetup table \$d | sed -E 's/linear (\S+ \S+)/delay \1 0 \1 5000/' >/run/lab/table
		dmsetup suspend \$d; dmsetup load \$d /run/lab/table; dmsetup resume \$d"
}

# statefs HOST VG: /var/lib/xen-backup becomes a file system on an LV, found there again after a power cut. It does
# nothing of its own accord, for a journal commit or a lazy inode table flushes the disk's cache, and that would hide
# that somebody else didn't.
statefs() {
	mklv "$1" "$2/labstate" 64M
	on "$1" "mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 /dev/$2/labstate; mount -o commit=3600 /dev/$2/labstate /var/lib/xen-backup; sync"
}

# --- power ---

# settle HOST: all that was written is on the disks, as if flushes had followed. Making an LV settles too.
settle() { on "$1" sync; }

# spill HOST: every second 256 KiB of what stands unflushed in the cache of xblab1's disk reaches the disk, for
# real disks write in an order of their own.
spill() {
	on "$1" 'for ((k = 0; k < 1 << 20; k += 512)); do echo "sync_range -w ${k}k 256k"; done | xfs_io /dev/ubdb >/dev/null'
}

# power on|off: dom0b's; on returns when it answers.
power() {
	echo "$1" >/lab/power-dom0b
	while [ -e /lab/power-dom0b ]; do sleep 0.05; done
	if [ "$1" = off ]; then
		ssh "${ssh_options[@]}" -O exit dom0b 2>/dev/null || true
		return
	fi
	local end=$((SECONDS + 600))
	while ((SECONDS < end)); do
		if on dom0b true 2>/dev/null; then return; fi
		sleep 0.1
	done
	fail "dom0b doesn't answer after power on"
}
crashb() { power off; power on; }

# --- toolstack ---

# testdomain HOST NAME SOURCE...: virsh there (libvirt's test driver, the default URI) finds a Xen domain with these disks
# as xvda, xvdb...; RUNSTATE=5 before it makes it shut off, 3 paused, 6 crashed, DRIVER=qemu shows the disks as files.
# A domain of that name is replaced.
export VIRSH_URI=test:///run/lab/node.xml
testdomain() {
	local host=$1 name=$2 letter=a source
	shift 2
	{
		echo "<domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>"
		echo "<name>$name</name><uuid>$(md5sum <<<"$name" | cut -c1-32)</uuid><memory>65536</memory><vcpu>1</vcpu><os><type>hvm</type></os>"
		echo "<test:runstate>${RUNSTATE:-1}</test:runstate><devices>"
		for source; do
			if [ "${DRIVER:-phy}" = phy ]; then
				echo "<disk type='block' device='disk'><driver name='phy' type='raw'/><source dev='$source'/>"
			else
				echo "<disk type='file' device='disk'><driver name='$DRIVER' type='raw'/><source file='$source'/>"
			fi
			echo "<target dev='xvd$letter' bus='xen'/></disk>"
			letter=$(tr a-y b-z <<<"$letter")
		done
		echo "</devices></domain>"
	} | on "$host" "cd /run/lab; cat >domains/$name; { echo '<node>'; cat domains/*; echo '</node>'; } >node.xml"
}

# pausable: virsh suspend and resume on dom0a have an effect that lasts; the test driver forgets with each call. Each is
# a line in /run/lab/paused: the time, suspend or resume.
pausable() {
	cat >/usr/local/sbin/virsh <<'X'
#!/bin/bash
case " $* " in
*" suspend "*) word=suspend runstate=3 ;;
*" resume "*) word=resume runstate=1 ;;
*) exec /usr/bin/virsh "$@" ;;
esac
cd /run/lab
exec 8>virsh.lock
flock 8 # the watchdog of a killed run may resume while the next run pauses
domain=${!#}
sed -i "s|runstate>.*</test|runstate>$runstate</test|" "domains/${domain#--domain=}"
{ echo '<node>'; cat domains/*; echo '</node>'; } >node.xml.tmp
mv node.xml.tmp node.xml
echo "${EPOCHREALTIME/./} $word" >>paused
X
	chmod 755 /usr/local/sbin/virsh
	: >/run/lab/paused
}
running() { [[ $(virsh domstate "$1") = running* ]]; }

# --- the wrapper ---

# conf HOST NAME LINE...: /etc/xen-backup.d/NAME.conf there.
conf() { printf '%s\n' "${@:3}" | on "$1" "mkdir -p /etc/xen-backup.d; cat >/etc/xen-backup.d/$2.conf"; }

# backup HOST [SETTING=VALUE...] [ARGUMENT...]: xen-backup.sh as cron runs it there; what it would mail is also in ./mail.
backup() {
	local host=$1 settings=()
	shift
	while [[ ${1-} = *=* ]]; do settings+=("$1") && shift; done
	local got=0 mark=$RANDOM$RANDOM
	on "$host" "exec env -i \${DM_DISABLE_UDEV:+DM_DISABLE_UDEV=1} ${settings[*]} /usr/local/bin/xen-backup.sh $*" 2>&1 | tee mail || got=$?
	# what it has logged is in /run/syslog when a later line is
	on "$host" "logger -t xblab end-$mark; until grep -q end-$mark /run/syslog; do sleep 0.05; done"
	return $got
}

# start: a run in the background, and its process number in $RUN. kill_run ends all its processes at once, as when memory
# runs out; not LVM's commands, for one that is killed would leave the origin suspended, nor the xb-snap that removes the
# snapshots in a session of its own. It waits for them: they hold the lock.
RUN=
start() {
	setsid xen-backup.sh 2>mail &
	RUN=$!
}
kill_run() {
	local groups
	kill -STOP "$RUN" || true # it shall not begin anything that is not seen below
	mapfile -t groups < <(pgrep -P "$RUN" | sed s/^/-/)
	kill -KILL -- "-$RUN" "${groups[@]}" || true # it may have ended
	wait "$RUN" || true
	flock --timeout 600 /run/xen-backup.lock true || fail "a killed run still has the lock"
}

# logged HOST REGEX: the wrapper wrote such a line to syslog there, facility and level before it: local3.info text.
logged() {
	for _ in {1..6000}; do
		if on "$1" "sed -n 's/.* \(local3[.][a-z]*\) xen-backup.sh\[[0-9]*\]: /\1 /p' /run/syslog" | grep -E -- "$2" >/dev/null; then return; fi # grep -q would break the pipe
		sleep 0.1
	done
	fail "not in the log of $1: $2"
}

# nothing_left: no snapshot that is no base, no process, connection, file in /run or paused domain on dom0a, no process on
# dom0b and no spool there but what is held, which goes with the next copy.
nothing_left() {
	local left b='pgrep -ax "xb-.*" || true; cd /var/lib/xen-backup/spool 2>/dev/null || exit 0
		for f in *; do [ ! -e "$f" ] || [ -e "../${f%.delta}.held" ] || echo "$f"; done'
	for _ in {1..6000}; do # they notice the end of their input, or a signal, in a moment
		left=$(onb "$b")
		left+=$(pgrep -ax 'xb-.*' || true
			pgrep -ax xen-backup.sh || true
			pgrep -af 'ControlPath=/run/xen-backup' || true
			find /run -maxdepth 1 -type d -name 'xen-backup.*'
			find /dev/mapper -name 'xblab*-xb--*' | grep -v -F "$(lvs --noheadings -o lv_dm_path,lv_tags | awk '/owner=base:/ { print $1 } END { print "/-" }')" || true)
		[ -n "$left" ] || return 0
		sleep 0.1
	done
	fail "left behind: $left"
}
