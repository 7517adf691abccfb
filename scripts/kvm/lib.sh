# shellcheck shell=bash disable=SC2154,SC2016 # $dir; what is expanded on the hosts
# Helpers for checks; README.md lists them. Bash reads this before each check (BASH_ENV); shells that the check starts
# shall not.
unset BASH_ENV
die() { fail "$@"; }
# shellcheck source=scripts/hosts/pair.sh
. "$(dirname "${BASH_SOURCE[0]}")/../hosts/pair.sh"
cd "$(mktemp -d "$dir/check.XXXXXX")" || exit

# The line of the check (not of a helper) that failed, and the command.
set -E
failed() { echo "$(basename "$0") line ${BASH_LINENO[-2]}: status $1: $2" >&2; }
trap 'failed $? "$BASH_COMMAND"' ERR

fail() { echo "FAILED: $*" >&2; exit 1; }

# campaign: this run is to take long, and to try all that there is.
campaign() { [[ -n ${XB_CAMPAIGN-} ]]; }

# status WANT COMMAND...: the command must end with this exit status.
status() {
	local want=$1 got=0
	shift
	"$@" || got=$?
	[ "$got" = "$want" ] || fail "status $got, not $want: $*"
}

# until_so COMMAND...: waits until it succeeds.
until_so() { until "$@"; do sleep 0.1; done; }

# conf HOST LINE...: /etc/xen-backup.d/domu1.conf there.
conf() { printf '%s\n' DOMU=domu1 'DOM0S="dom0a dom0b"' "${@:2}" >"$dir/$1/etc/xen-backup.d/domu1.conf"; }

# fresh [WORD]: domu1 has new disks and runs on dom0a, with WORD on its kernel's command line; dom0b knows nothing of it.
fresh() {
	local h
	for h in dom0a dom0b; do
		on $h bash -c 'for do in destroy managedsave-remove undefine; do virsh -q $do domu1; done
			rm -rf /srv/*.img /srv/.*.xb-snap-* /srv/ballast /var/lib/xen-backup/* /var/log/libvirt/domu1.log' >/dev/null 2>&1 || true
		conf $h
	done
	on dom0a bash -c 'cp --reflink=always /srv/new/* /srv/'
	sed "s|@WORD@|${1-}|" "$dir/domu1.xml" | on dom0a virsh -q define /dev/stdin
	on dom0a virsh -q start domu1
	until_so grep -q 'BOOTED\|REWRITTEN' "$(console dom0a)"
}

# leave HOST MIB: only so much is free on its /srv.
leave() {
	on "$1" bash -c 'rm -f /srv/ballast; sync -f /srv
		free=$(df --output=avail -BM /srv | tr -dc 0-9); fallocate -l $((free - $1))M /srv/ballast' - "$2"
}

# console HOST: the file with what domu1 says there.
console() { echo "$dir/$1/log/libvirt/domu1.log"; }

# goes_on HOST: waits until domu1 has written more lines to its disks.
goes_on() {
	local seen
	seen=$(tail -n 1 "$(console "$1")")
	while [ "$(tail -n 1 "$(console "$1")")" = "$seen" ]; do sleep 0.1; done
}

# backup HOST [SETTING=VALUE...] [ARGUMENT...]: xen-backup.sh as cron runs it there; what it would mail is also in ./mail.
backup() {
	local dom0=$1 settings=()
	shift
	while [[ ${1-} = *=* ]]; do settings+=("$1") && shift; done
	on "$dom0" env -i "${settings[@]}" /usr/local/sbin/xen-backup.sh "$@" 2>&1 | tee mail
}

# instant HOST: its images are, after their journals are replayed, whole file systems of one instant.
instant() {
	on "$1" bash -eu -o pipefail -c '
		mkdir -p /run/judge/{root,data}
		for disk in root data; do
			cp --reflink=always /srv/$disk.img /srv/judge-$disk
			mount -o loop /srv/judge-$disk /run/judge/$disk
		done
		a=$(tail -n 1 /run/judge/root/log) b=$(tail -n 1 /run/judge/data/log)
		for disk in root data; do
			awk "NR != \$1 { print \"gap in the log of $disk at line \" NR; exit 1 }" /run/judge/$disk/log
			umount /run/judge/$disk
			e2fsck -fn /srv/judge-$disk >/run/judge/fsck 2>&1 || { cat /run/judge/fsck; exit 1; }
			rm /srv/judge-$disk
		done
		echo "$(hostname): root at $a, data at $b"
		((a == b || a == b + 1))' || fail "the images of $1 are not of one instant"
}
