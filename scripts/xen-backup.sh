#!/bin/bash
# xen-backup.sh - keep standby copies of the DomUs that run here on other Dom0s
#
# Run by cron, without arguments, on every Dom0. For each conf file it takes
# snapshots of the DomU's disks and brings the same volumes of every other Dom0
# in DOM0S up to date. Drop-in for the script of that name of 2009.
#
# shellcheck disable=SC2317 # functions called by traps look unreachable
set -euo pipefail
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/sbin:/bin:/usr/sbin:/usr/bin

usage() {
	cat <<'EOF'
Usage: xen-backup.sh [--dry-run] [--verify] [DOMU...]
       xen-backup.sh --final|--force-diverged [--dry-run] [--verify] DOMU

Bring the standby copies of the DomUs that run on this Dom0 up to date: of all
that have a conf file, or only those named.

  --dry-run  change nothing; say what would be done
  --verify   compare each copy with its source afterwards
  --final    last copy before a planned move: the DomU must be shut off
             everywhere, and is read without a snapshot
  --force-diverged
             overwrite copies whose changes exist nowhere else, as after a
             failover the image that the dead Dom0 came back with
  -h, --help

Settings, in the environment or (*) in a conf file, which holds shell variables:
  CONF_DIR        conf files, *.conf (/etc/xen-backup.d, else
                  /root/Works/Xen-Backup/xen-backup.d)
  XML_DIR         where DOMU.xml is written (CONF_DIR)
  DOMU, DOM0S *   the DomU, and the Dom0s that keep its image
  SNAPSHOT_SIZE * of each COW snapshot (1G)
  EXCLUDE *       disks to leave out: "xvdb xvdc"
  MAP *           other names: "dom0b:/dev/vg/a=/dev/vg2/b ..."
  BWLIMIT *       bytes a second to each Dom0: 20M
  BLOCK_SIZE *, HASH *  for xb-sig (4K, xxh64)
  PAUSE *         no, or auto: pause a DomU of several disks for their snapshots
  FIRST_COPY *    in-place: write a first copy while it arrives (spool)
  SPOOL_DIR *     directory of the other Dom0s for spools (STATE_DIR/spool)
  CREATE_LV *     volume group in which a missing standby is created
  LOCAL_DOM0      this host's name in DOM0S, if it is not found out right
  VIRSH_URI       libvirt connection of this host
  TOOLSTACK       whom xb-locate asks, on every Dom0: auto, virsh or xl (auto)
  JOBS            Dom0s served at the same time (4)
  LOG_FACILITY, LOG_OPTION  for logger (local3, "")
  STATE_DIR       where hosts remember their devices (/var/lib/xen-backup)
  RUN_DIR         lock and ssh connections (/run)

Exit status: 0 done or nothing to do, 3 at least one DomU or Dom0 failed, 64
usage, 73 cannot write to RUN_DIR, 75 another run is at work, 78 configuration,
143 stopped by a signal.
EOF
}

CONF_DIR=${CONF_DIR:-}
SNAPSHOT_SIZE=${SNAPSHOT_SIZE:-1G}
LOG_FACILITY=${LOG_FACILITY:-local3}
LOG_OPTION=${LOG_OPTION:-}
STATE_DIR=${STATE_DIR:-/var/lib/xen-backup}
RUN_DIR=${RUN_DIR:-/run}
JOBS=${JOBS:-4}
export XB_STATE_DIR=$STATE_DIR

dry_run='' verify='' final='' force='' work=''
declare -i failed=0 finished=99

# --- messages -----------------------------------------------------------------

log_mesg() { # LEVEL MESSAGE: to syslog, to a terminal, and errors and what syslog does not take to cron's mail
	local level=$1
	shift
	# LOG_OPTION is a list of options.
	# shellcheck disable=SC2086
	if ! logger -t "xen-backup.sh[$$]" -p "$LOG_FACILITY.$level" $LOG_OPTION -- "$*" 2>/dev/null ||
		[[ $level = err || -n $dry_run || -t 2 ]]; then
		printf '%s\n' "$*" >&2 || :
	fi
}

log_file() { # LEVEL PREFIX FILE: what a command said
	local line
	while IFS= read -r line; do
		log_mesg "$1" "$2$line"
	done <"$3"
}

die() { # STATUS MESSAGE
	log_mesg err "$2"
	exit "$1"
}

fail() { # STATUS MESSAGE: this part is lost, the others go on
	local status=$1
	case $status in 126 | 127) status=69 ;; esac # no such command
	log_mesg err "### ERROR $status: $2"
	failed=1
	return 1
}

# first_cause prints the status, of those of a pipeline, that tells what went
# wrong: a stage that only saw its neighbour end says 65 or, writing, 74.
first_cause() {
	local cause status all=' ' other=0
	for status; do
		case $status in
		124 | 126 | 127 | 255) status=69 ;; # no answer in time; no such command; ssh
		0 | 65 | 74) ;;
		*) other=$status ;;
		esac
		all+="$status "
	done
	for cause in 82 83 80 75 66 76 69 "$other" 74 65; do
		if [[ $cause != 0 && $all = *" $cause "* ]]; then
			echo "$cause"
			return
		fi
	done
	echo 0
}

# --- the other Dom0s ----------------------------------------------------------

valid_name() { [[ $1 =~ ^[A-Za-z0-9_/.+:@][A-Za-z0-9_/.+:@-]*$ ]]; }

ssh_options=(-T -o BatchMode=yes -o ConnectTimeout=15 -o ServerAliveInterval=10 -o ServerAliveCountMax=30)
gcm=Ciphers=^aes128-gcm@openssh.com,aes256-gcm@openssh.com # a third fewer cycles than ssh's first choice
if ssh -G -o "$gcm" localhost >/dev/null 2>&1; then
	ssh_options+=(-o "$gcm")
fi

limit=() # of a question: in a function, "local limit=(deadline SECONDS)"
deadline() { timeout --foreground "$@"; }

remote() { # DOM0 COMMAND...: standard input is the caller's
	local dom0=$1
	shift
	"${limit[@]}" ssh "${ssh_options[@]}" -o "ControlPath=$work/%C" "$dom0" XB_STATE_DIR="$STATE_DIR" "$@"
}

ask() { # DOM0 COMMAND...: what it says is logged if it fails
	local status=0
	remote "$@" </dev/null >"$work/ask.$1" 2>&1 || status=$?
	((status == 0)) || log_file err "### remote Dom0 $1: " "$work/ask.$1"
	return "$status"
}

# connect opens the one connection to a Dom0 that all commands share. Its stderr
# is a file: a master that keeps cron's pipe open keeps cron waiting.
connect() {
	local dom0=$1
	if ssh "${ssh_options[@]}" -o "ControlPath=$work/%C" -O check "$dom0" >/dev/null 2>&1; then
		return
	fi
	echo "$dom0" >>"$work/masters" # before it is there: whoever is killed meanwhile leaves none unknown
	if ! ssh "${ssh_options[@]}" -o "ControlPath=$work/%C" -M -N -f "$dom0" \
		</dev/null >/dev/null 2>"$work/ssh.$dom0" 9>&-; then
		log_file err "### remote Dom0 $dom0: " "$work/ssh.$dom0"
		return 1
	fi
}

# leave closes the connections that were opened under a work directory, and
# removes it.
leave() { # DIRECTORY
	local dom0
	if [[ -f $1/masters ]]; then
		while read -r dom0; do
			timeout 5 ssh -o "ControlPath=$1/%C" -O exit "$dom0" </dev/null >/dev/null 2>&1 || :
		done <"$1/masters"
	fi
	pkill -f -- " ControlPath=$1/" || : # one that waits for a dead host does not exit when told
	rm -rf "$1"
}

is_myname() { # DOM0: does one of its addresses lead to this host? Status 2: cannot tell
	if [[ -n ${LOCAL_DOM0:-} ]]; then
		[[ $1 = "$LOCAL_DOM0" ]]
		return
	fi
	local address addresses route
	addresses=$(getent ahosts "$1" | awk '{ print $1 }' | sort -u)
	[[ -n $addresses ]] && command -v ip >/dev/null || return 2
	for address in $addresses; do
		# not only those of its interfaces: Debian's /etc/hosts has 127.0.1.1
		route=$(ip route get "$address" 2>/dev/null) || :
		if [[ $route = local* ]]; then
			return
		fi
	done
	return 1
}

# runs_elsewhere asks a Dom0 whether the DomU is active there too.
runs_elsewhere() { # DOM0
	local status=0 limit=(deadline 150)
	remote "$1" "xb-locate ${TOOLSTACK:+--toolstack $TOOLSTACK} $DOMU >/dev/null && echo active" </dev/null >"$work/active.$1" 2>"$work/ask.$1" || status=$?
	case $status in
	78) return 0 ;; # active, with a disk that can't be copied
	0)
		if [[ $(<"$work/active.$1") = *active ]]; then return 0; fi
		status=76 # a shell that does nothing
		;;
	124) echo "no answer within 150 s" >>"$work/ask.$1" ;;
	1) # the word of xb-locate, not that of a shell that failed
		if grep -q '^xb-locate: ' "$work/ask.$1"; then return 1; fi
		;;
	esac
	log_file err "### remote Dom0 $1: " "$work/ask.$1"
	((status != 1)) || status=69
	fail "$(first_cause "$status")" "remote Dom0 $1 cannot tell whether DomU $DOMU runs there" || return 2
}

# --- one disk to one Dom0 -----------------------------------------------------

target_of() { # DOM0 SOURCE: the standby's device there
	local rule
	for rule in ${MAP:-}; do
		if [[ $rule = "$1:$2="* ]]; then
			echo "${rule#*=}"
			return
		fi
	done
	echo "$2"
}

# prepare_target looks at the standby before anything is sent and sets how it is
# to be written: patch_options and sig_options; and sets by which status xb-patch
# would end without a delta. For a missing or small volume it names the command that
# mends it.
prepare_target() { # DOM0 SOURCE TARGET
	local dom0=$1 source=$2 target=$3 size state status=0 lv=${3##*/} vg=${3%/*} limit=(deadline 60)
	patch_options=(--peer "$local_dom0") sig_options=() lacks_delta=65
	size=$(blockdev --getsize64 "$source" 2>/dev/null || stat -L -c %s "$source")
	state=$(remote "$dom0" "xb-patch --state $target && { [ ! -b $target ] || blockdev --getsize64 $target; }" \
		</dev/null 2>"$work/state.$dom0") || status=$?
	if ((status == 66)); then
		if [[ $target != /dev/* ]]; then # a file is made on the way
			patch_options+=(--create) sig_options+=(--missing-ok)
			if [[ -n $force ]]; then patch_options+=(--force-diverged); else patch_options+=(--in-place); fi
		elif [[ -z ${CREATE_LV:-} ]]; then
			fail 66 "$dom0:$target is missing or not active; on $dom0: lvcreate -y -L ${size}b -n $lv ${vg##*/}"
		elif [[ $vg != "/dev/$CREATE_LV" ]]; then
			fail 78 "$dom0:$target is not in CREATE_LV=$CREATE_LV: set MAP"
		else
			log_mesg info "### remote Dom0 $dom0: ${dry_run:+would }create $target of $size bytes"
			patch_options+=(--in-place) lacks_delta=''
			if [[ -n $dry_run ]]; then
				ask "$dom0" vgs "$CREATE_LV"
			else
				ask "$dom0" lvcreate -y -W n -L "${size}b" -n "$lv" "$CREATE_LV"
			fi || fail 73 "cannot create $dom0:$target"
		fi
		return
	elif ((status != 0)); then
		log_file err "### remote Dom0 $dom0: " "$work/state.$dom0"
		fail "$(first_cause "$status")" "cannot look at $dom0:$target"
		return
	elif [[ $state != '{'*'"phase":'* ]]; then
		fail 76 "$dom0 answers with something else; is its login shell silent? ${state%%$'\n'*}"
		return
	elif [[ $state =~ $'\n'([0-9]+)$ ]] && ((10#${BASH_REMATCH[1]} < size)); then
		fail 65 "$dom0:$target is too small; on $dom0: lvextend -L ${size}b $target"
		return
	fi
	limit=() # a recovery reads the whole standby
	case $state in
	*'"phase":"applying"'*)
		log_mesg info "### remote Dom0 $dom0: ${dry_run:+would }finish the interrupted apply on $target"
		lacks_delta=83
		[[ -n $dry_run ]] || ask "$dom0" xb-patch --recover "$target" || status=$?
		if ((status != 0)); then
			fail "$(first_cause "$status")" "cannot finish the apply on $dom0:$target"
			return
		fi
		;;
	*'"phase":"incomplete"'*'"sent":'*) ;; # what was sent from there may be newer
	*'"phase":"incomplete"'*) [[ -n $force ]] || patch_options+=(--in-place) ;;
	*'"phase":"clean"'* | *'"sent":'*) ;;
	*) [[ ${FIRST_COPY:-spool} != in-place ]] || patch_options+=(--in-place) ;;
	esac
	[[ -z $force || " ${patch_options[*]} " = *' --in-place '* ]] || patch_options+=(--force-diverged)
}

# try_target asks, for --dry-run, whether xb-patch would take the standby as it is.
try_target() { # DOM0 TARGET
	local status=0 limit=(deadline 60)
	[[ -n $lacks_delta ]] || return 0 # it is to be created yet
	remote "$1" "xb-sig --version >/dev/null && xb-patch --dry-run ${patch_options[*]} $2" </dev/null >"$work/try.$1" 2>"$work/ask.$1" || status=$?
	if [[ -s $work/try.$1 ]]; then
		fail 76 "$1 answers with something else; is its login shell silent? $(head -n 1 "$work/try.$1")"
	elif ((status != lacks_delta)); then
		log_file err "### remote Dom0 $1: " "$work/ask.$1"
		fail "$(first_cause "$status")" "$1:$2 cannot be written to"
	fi
}

sync_disk() { # DOM0 SOURCE SNAPSHOT
	local dom0=$1 source=$2 snapshot=$3 target t status
	local lacks_delta
	local -a patch_options sig_options stages=(0)
	target=$(target_of "$dom0" "$source")
	valid_name "$target" || { fail 78 "bad name in MAP: $target" || return 1; }
	prepare_target "$dom0" "$source" "$target" || return 1
	[[ -z ${SPOOL_DIR:-} || " ${patch_options[*]} " = *' --in-place '* ]] || patch_options+=(--spool "$SPOOL_DIR")
	if [[ -n $dry_run ]]; then
		try_target "$dom0" "$target" || return 1
		log_mesg info "### would sync $DOMU from $local_dom0 to $dom0: $source to $target" "${patch_options[@]:2}"
		return
	fi
	log_mesg info "### sync $DOMU from $local_dom0 to $dom0: $source to $target"
	t=$(mktemp -d "$work/sync.XXXXXX") || fail 73 "cannot create a directory in $work" || return 1
	remote "$dom0" xb-sig -b "${BLOCK_SIZE:-4K}" --hash "${HASH:-xxh64}" "${sig_options[@]}" "$target" \
		</dev/null 2>"$t/xb-sig" |
		xb-delta ${BWLIMIT:+--bwlimit "$BWLIMIT"} --summary "$t/summary" "$snapshot" 2>"$t/xb-delta" |
		remote "$dom0" xb-patch "${patch_options[@]}" "$target" >"$t/xb-patch" 2>&1 || stages=("${PIPESTATUS[@]}")
	status=$(first_cause "${stages[@]}")
	local level=info stage
	if ((status)); then
		level=err
		sed -i '/: standard output: broken pipe$/d' "$t/xb-delta" # xb-patch has told why it ended
	fi
	for stage in xb-sig xb-delta xb-patch; do
		log_file "$level" "#### $dom0:$target: " "$t/$stage"
	done
	if ((status != 0)); then
		fail "$status" "$source was not copied to $dom0:$target (${stages[*]})"
		return 1
	fi
	xb-patch --record "$source" --peer "$dom0" <"$t/summary" || fail $? "cannot remember what $dom0 has of $source" || return 1
	log_mesg info "#### $dom0:$target: $(sed -E 's/.*"bytes_changed":([0-9]+),"bytes_sent":([0-9]+).*/\1 bytes changed, \2 sent/' "$t/summary")"
	if [[ -n $verify ]]; then
		verify_disk "$dom0" "$target" "$snapshot" || return 1
	fi
	rm -r "$t"
}

verify_disk() { # DOM0 TARGET SNAPSHOT
	local -a stages=(0)
	: >"$work/verify-said.$1"
	remote "$1" xb-sig -b "${BLOCK_SIZE:-4K}" --hash "${HASH:-xxh64}" "$2" </dev/null 2>>"$work/verify-said.$1" |
		xb-delta --check "$3" >"$work/verify.$1" 2>>"$work/verify-said.$1" || stages=("${PIPESTATUS[@]}")
	if [[ ${stages[*]} != 0 ]]; then
		log_file err "#### $1:$2: " "$work/verify-said.$1"
		fail "$(first_cause "${stages[@]}")" "$1:$2 is not equal to its source: $(cat "$work/verify.$1")"
		return 1
	fi
	log_mesg info "#### $1:$2: verified, $(cat "$work/verify.$1")"
}

# sync_to brings one Dom0 up to date: its document and every disk.
sync_to() { # DOM0
	local dom0=$1 i
	local there=$STATE_DIR/xml/$DOMU.xml
	if [[ -z $dry_run && -s $work/xml ]]; then
		local limit=(deadline 60) size # a cut one must not replace the one that is there
		size=$(stat -c %s "$work/xml")
		if ! remote "$dom0" "umask 077; mkdir -p '${there%/*}' && cat >'$there.$dom0' && [ \$(stat -c %s '$there.$dom0') = $size ] && sync '$there.$dom0' && mv -T '$there.$dom0' '$there' && sync '${there%/*}' || { rm -f '$there.$dom0'; false; }" \
			<"$work/xml" >"$work/ask.$dom0" 2>&1; then
			log_file err "### remote Dom0 $dom0: " "$work/ask.$dom0"
			fail 69 "remote Dom0 $dom0: cannot store $there" || :
		fi
		limit=()
	fi
	for i in "${!sources[@]}"; do
		sync_disk "$dom0" "${sources[i]}" "${snapshots[i]:-${sources[i]}}" || :
	done
	exit "$failed"
}

# --- one DomU -----------------------------------------------------------------

libvirt() { deadline 30 virsh ${VIRSH_URI:+-c "$VIRSH_URI"} "$@"; }
xl() { deadline 30 xl "$@"; }

# locate sets sources to the disks, or returns the reason why there are none.
locate() {
	local options=() target source status=0
	# a redirection that fails has the status by which xb-locate says no
	: >"$work/disks" && : >"$work/locate" && : >"$work/xml" || return 73
	if [[ -n ${VIRSH_URI:-} ]]; then options+=(--connect "$VIRSH_URI"); fi
	for target in ${EXCLUDE:-}; do options+=(--exclude "$target"); done
	xb-locate ${TOOLSTACK:+--toolstack "$TOOLSTACK"} "${options[@]}" "$DOMU" >"$work/disks" 2>"$work/locate" || status=$?
	if ((status == 1)) && ! grep -q '^xb-locate: ' "$work/locate"; then return 70; fi # not its word
	if [[ -n $final ]]; then
		case $status in
		0) echo "it still runs here: shut it down for --final" >"$work/locate" && return 75 ;;
		1) ;;
		*) return "$status" ;;
		esac
	elif ((status != 0)); then
		return "$status"
	fi
	libvirt dumpxml "$DOMU" >"$work/xml" 2>/dev/null ||
		xl list -l "$DOMU" >"$work/xml" 2>/dev/null || : >"$work/xml"
	if [[ -n $final ]]; then
		[[ -s $work/xml ]] || cp "$xml" "$work/xml" || return 66
		xb-locate "${options[@]}" --xml "$work/xml" >"$work/disks" 2>"$work/locate" || return
	fi
	sources=()
	while IFS=$'\t' read -r target source; do
		valid_name "$source" || { fail 78 "DomU $DOMU: bad name of disk $target: $source" || return 78; }
		sources+=("$source")
	done <"$work/disks"
}

# pause_domain and resume_domain bracket the snapshots of several disks. A process
# of its own resumes the DomU after 10 s whatever becomes of this one.
pause_domain() {
	[[ ${PAUSE:-no} = auto && ${#sources[@]} -gt 1 ]] || return 0
	if [[ $(libvirt domstate "$DOMU" 2>/dev/null) = running ]]; then
		resume=(timeout --foreground 30 virsh ${VIRSH_URI:+-c "$VIRSH_URI"} resume "$DOMU")
		pause=(libvirt suspend "$DOMU")
	elif [[ $(xl list "$DOMU" 2>/dev/null | awk 'NR == 2 { print substr($5, 3, 1) }') = - ]]; then
		resume=(timeout --foreground 30 xl unpause "$DOMU") pause=(xl pause "$DOMU")
	else
		return 0 # paused already, or going away: not ours to resume
	fi
	log_mesg info "## pause DomU $DOMU"
	setsid bash -c 'for try in {1..30}; do sleep 10; "$@" && exit; done' watchdog "${resume[@]}" </dev/null >/dev/null 2>&1 9>&- &
	watchdog=$!
	disown "$watchdog" # no job that counts or is waited for
	if ! "${pause[@]}" >"$work/resume" 2>&1; then
		log_file err "## cannot pause DomU $DOMU: " "$work/resume"
		fail 69 "DomU $DOMU does not let itself be paused, and is not backed up"
	fi
}

is_paused() {
	[[ $(libvirt domstate "$DOMU" 2>/dev/null) = paused ||
		$(xl list "$DOMU" 2>/dev/null | awk 'NR == 2 { print substr($5, 3, 1) }') = p ]]
}

resume_domain() {
	((${#resume[@]})) || return 0
	if "${resume[@]}" >/dev/null 2>"$work/resume" || ! is_paused; then
		kill -- "-$watchdog" 2>/dev/null || kill "$watchdog" 2>/dev/null || log_mesg warning "## DomU $DOMU ran again before all snapshots were taken"
	else
		log_file err "## cannot resume DomU $DOMU: " "$work/resume"
		fail 69 "DomU $DOMU is still paused; this is tried again every 10 s, for 5 minutes" || :
	fi
	resume=()
}

take_snapshots() {
	local status=0 i
	pause_domain || return 1
	xb-snap create -v --owner "$BASHPID" --size "${SNAPSHOT_SIZE:=1G}" "${sources[@]}" >"$work/snapshots" 2>"$work/snap" || status=$?
	resume_domain
	log_file "$( ((status)) && echo err || echo info)" "## " "$work/snap"
	((status == 0)) || fail "$status" "DomU $DOMU: no snapshots" || return 1
	mapfile -t snapshots <"$work/snapshots"
	for i in "${!sources[@]}"; do
		log_mesg info "### local Dom0 $local_dom0: take snapshot ${snapshots[i]##*/} for ${sources[i]} with size $SNAPSHOT_SIZE"
	done
}

leave_domu() { # whatever happened, nothing stays behind
	trap '' TERM INT HUP
	resume_domain
	# from the file: a signal may come before they are in the variable
	mapfile -t snapshots <"$work/snapshots"
	# in a session of its own, where no second signal to this run reaches it
	if ((${#snapshots[@]})) && ! setsid --wait xb-snap remove "${snapshots[@]}" 2>"$work/snap"; then
		log_file err "## " "$work/snap"
		exit 3
	fi
}

# check_settings refuses what would else be found out late, or never.
check_settings() { # CONF
	local size='^[0-9]+(\.[0-9]+)?([kmgt](i?b)?|b)?$' setting
	shopt -s nocasematch
	for setting in SNAPSHOT_SIZE BWLIMIT; do
		[[ -z ${!setting:-} || ${!setting} =~ $size && ${!setting} = *[1-9]* ]] || fail 78 "$1: bad $setting: ${!setting}" || return 1
	done
	shopt -u nocasematch
	for setting in HASH:xxh64:sha256 PAUSE:no:auto FIRST_COPY:spool:in-place TOOLSTACK:auto:virsh:xl; do
		local value=${setting%%:*}
		value=${!value:-}
		[[ -z $value || $setting: = *":$value:"* ]] || fail 78 "$1: bad ${setting%%:*}: $value" || return 1
	done
	[[ -z ${BLOCK_SIZE:-} ]] || xb-sig -b "$BLOCK_SIZE" --missing-ok "$work/none" >/dev/null 2>&1 || fail 78 "$1: bad BLOCK_SIZE: $BLOCK_SIZE" || return 1
	[[ ${CREATE_LV:-} != */* ]] && valid_name "${CREATE_LV:-none}" || fail 78 "$1: bad CREATE_LV: $CREATE_LV" || return 1
	[[ -z ${SPOOL_DIR:-} || $SPOOL_DIR = /* ]] && valid_name "${SPOOL_DIR:-/}" || fail 78 "$1: bad SPOOL_DIR: $SPOOL_DIR" || return 1
	for setting in ${MAP:-}; do
		[[ $setting =~ ^[A-Za-z0-9_.:@-]+:/[A-Za-z0-9_/.+:@-]+=/[A-Za-z0-9_/.+:@-]+$ ]] || fail 78 "$1: bad rule in MAP: $setting" || return 1
	done
	[[ $JOBS =~ ^[1-9][0-9]{0,3}$ ]] || fail 78 "$1: bad JOBS: $JOBS" || return 1
	[[ $DOM0S = *[![:space:]]* ]] || fail 78 "$1: DOM0S names no Dom0" || return 1
	for setting in "$DOMU" $DOM0S; do
		if ! valid_name "$setting" || [[ $setting = */* ]]; then
			fail 78 "$1: bad or missing name in DOMU or DOM0S: '${setting//[^[:print:]]/?}'" || return 1
		fi
	done
	# virsh and xl would take it for the number of a domain, perhaps of another one.
	[[ $DOMU = *[!0-9]* ]] || fail 78 "$1: a DomU whose name is a number cannot be told from others: $DOMU"
}

# check_targets refuses one standby for two disks, of one DomU or of two.
check_targets() {
	local dom0 source standby
	for dom0 in "${remotes[@]}"; do
		for source in "${sources[@]}"; do
			standby=" $dom0:$(target_of "$dom0" "$source") of"
			if grep -sF "$standby " "$work/standbys" | grep -vxF "$standby $DOMU $source" >"$work/conf"; then
				fail 78 "DomU $DOMU: $source would overwrite$(head -n 1 "$work/conf")"
				return
			fi
			echo "$standby $DOMU $source" >>"$work/standbys"
		done
	done
}

# read_conf sources a conf file, or ends the subshell that it runs in.
read_conf() { # CONF
	DOMU='' DOM0S=''
	# Of a file with an error bash would take the part before it, and leave out a MAP.
	if [[ ! -f $1 ]] || ! bash -n "$1" 2>"$work/conf"; then
		log_file err "## " "$work/conf"
		((${#only[@]})) && finish # who is asked for and has no other is told of below
		fail 78 "$1: not a file of shell variables" || exit 3
	fi
	set +u # as the script of 2009 did
	# The file may use these names for something of its own.
	eval '. "$1" 2>"$work/conf";' "$(declare -p dry_run verify final force only work failed finished | sed 's/^declare /declare -g /')"
	DOMU=${DOMU:-} DOM0S=${DOM0S[*]:-} MAP=${MAP[*]:-} EXCLUDE=${EXCLUDE[*]:-}
	set -u +C
	# "MAP = ..." and a list without quotes are commands that are not found, and no MAP.
	if grep -qsF "$1: line " "$work/conf"; then
		((${#only[@]} == 0)) || [[ " ${only[*]} " = *" $DOMU "* ]] || finish
		log_file err "## " "$work/conf"
		fail 78 "$1: not a file of shell variables" || exit 3
	fi
	cat "$work/conf" >&2
}

# find_dom0s sets local_dom0 and remotes.
find_dom0s() {
	local dom0 status unknown=''
	for dom0 in $DOM0S; do
		status=0
		is_myname "$dom0" || status=$?
		if ((status == 0)); then
			local_dom0=$dom0
		elif [[ " ${remotes[*]} " != *" $dom0 "* ]]; then
			remotes+=("$dom0")
			((status == 1)) || unknown=$dom0
		fi
	done
	if [[ -z $local_dom0 && -n $unknown ]]; then
		fail 69 "cannot tell which of DOM0S is this host: $unknown cannot be resolved"
	fi
}

# ask_dom0s sets reachable. Before anything is touched it asks whether the DomU runs
# elsewhere too: then neither image is known to be the right one.
ask_dom0s() {
	local dom0 status
	for dom0 in "${remotes[@]}"; do
		connect "$dom0" || { fail 69 "remote Dom0 $dom0 cannot be reached" || continue; }
		status=0
		runs_elsewhere "$dom0" || status=$?
		case $status in
		0) fail 81 "DomU $DOMU runs on $dom0 too: nothing is touched" || return ;;
		1) reachable+=("$dom0") ;;
		esac
	done
}

# keep_xml writes the DomU's document beside the conf file.
keep_xml() {
	[[ -z $dry_run && -s $work/xml ]] || return 0
	if ! { cp "$work/xml" "$xml.tmp" && sync "$xml.tmp" && mv -T "$xml.tmp" "$xml" && sync "${xml%/*}"; } 2>"$work/conf"; then
		rm -f "$xml.tmp"
		fail 73 "cannot write $xml: $(<"$work/conf")" || :
	fi
}

# finish ends the run of one conf file, with a status that a conf file which ends it
# does not have.
finish() { exit $((failed ? 3 : finished)); }

# backup_domu does one conf file. It runs in a subshell: what the file sets is
# gone afterwards.
backup_domu() { # CONF
	read_conf "$1"
	local -a sources=() snapshots=() remotes=() resume=() pause=() reachable=() jobs=()
	local dom0 local_dom0='' status=0 watchdog='' xml
	((${#only[@]} == 0)) || [[ " ${only[*]} " = *" $DOMU "* ]] || finish
	echo "$DOMU" >>"$work/found"
	log_mesg info "## checking DomU $DOMU"
	check_settings "$1" || exit 3
	[[ -z $final ]] || JOBS=1 # what is no snapshot must have but one reader
	xml=${XML_DIR:-$CONF_DIR}/$DOMU.xml
	: >"$work/snapshots"
	trap 'leave_domu' EXIT
	trap 'exit 143' TERM INT HUP

	locate || status=$?
	case $status in
	0) log_file info "## " "$work/locate" ;; # disks that are left out
	1)
		log_mesg info "## SKIP: DomU $DOMU is not running on this host: $(head -n 1 "$work/locate")"
		finish
		;;
	*)
		log_file err "## " "$work/locate"
		fail "$status" "DomU $DOMU is not backed up" || exit 3
		;;
	esac
	find_dom0s || exit 3
	if [[ -z $local_dom0 ]]; then
		log_mesg info "## SKIP: DOM0S does not include this host"
		finish
	fi
	log_mesg info "## BACKUP: DomU $DOMU to remote Dom0(s): [${remotes[*]}]"
	keep_xml
	check_targets || exit 3
	ask_dom0s || exit 3
	((${#reachable[@]} && ${#sources[@]})) || finish

	if [[ -z $dry_run && -z $final ]]; then
		take_snapshots || exit 3
	fi
	for dom0 in "${reachable[@]}"; do
		while (($(jobs -pr | wc -l) >= JOBS)); do wait -n || :; done
		sync_to "$dom0" &
		jobs+=($!)
	done
	for dom0 in "${jobs[@]}"; do
		wait "$dom0" || failed=1
	done
	finish
}

# --- the run ------------------------------------------------------------------

backup_all() {
	local conf name status
	set +m # all in one process group
	trap 'exit 143' TERM INT HUP
	if [[ -z $dry_run ]]; then # leftovers of runs that were killed
		xb-snap prune >"$work/pruned" 2>"$work/snap" || { log_file err "## " "$work/snap" && failed=1; }
		log_file info "## removed leftover snapshot " "$work/pruned"
	fi
	for conf in "$CONF_DIR"/*.conf; do
		[[ -e $conf || -L $conf ]] || die 78 "no conf file in $CONF_DIR"
		status=0
		(backup_domu "$conf") || status=$?
		case $status in
		"$finished") ;;
		3) failed=1 ;;
		129 | 1[3-9]?) fail 70 "$conf: its part of the run was killed: status $status" || : ;;
		*) fail 78 "$conf: it ends the script, with status $status" || : ;;
		esac
	done
	for name in "${only[@]}"; do
		grep -qsxF -- "$name" "$work/found" || fail 78 "no conf file for DomU $name" || :
	done
	exit $((failed ? 3 : 0))
}

misuse() {
	usage >&2 || :
	exit 64
}

only=()
while (($#)); do
	case $1 in
	--dry-run) dry_run=1 ;;
	--verify) verify=1 ;;
	--final) final=1 ;;
	--force-diverged) force=1 ;;
	-h | --help) usage || exit 74 && exit 0 ;;
	-*) misuse ;;
	*)
		valid_name "$1" || misuse
		only+=("$1")
		;;
	esac
	shift
done
if [[ -n $final$force ]] && ((${#only[@]} != 1)); then misuse; fi
for dir in "$CONF_DIR" /etc/xen-backup.d /root/Works/Xen-Backup/xen-backup.d; do
	if [[ -n $dir && (-d $dir || $dir = "$CONF_DIR") ]]; then CONF_DIR=$dir && break; fi
done
for dir in "$STATE_DIR" "$RUN_DIR"; do # they reach a shell on the other Dom0s, and ssh
	if ! valid_name "$dir" || [[ $dir != /* ]]; then die 78 "bad name in STATE_DIR or RUN_DIR: $dir"; fi
done
[[ -d $CONF_DIR ]] || die 78 "no directory of conf files: ${CONF_DIR:-/etc/xen-backup.d}"

trap '' PIPE TTOU # whoever reads what is said, or does not: the run goes on
log_mesg info "# Start $0 $(date)"
# The lock is held by an open file, not by a file's existence: it can't go stale.
exec 9>>"$RUN_DIR/xen-backup.lock" || die 73 "cannot create $RUN_DIR/xen-backup.lock"
if ! flock -n 9; then
	level=info
	[[ -z $(find "$RUN_DIR/xen-backup.lock" -mmin +1440) ]] || level=err # cron hears only of that
	log_mesg "$level" "## another process is running"
	exit 75
fi
touch "$RUN_DIR/xen-backup.lock"
for dir in "$RUN_DIR"/xen-backup.??????; do # of runs that were killed: nobody else has the lock
	if [[ -d $dir ]]; then leave "$dir"; fi
done
work=$(mktemp -d "$RUN_DIR/xen-backup.XXXXXX") || die 73 "cannot create a directory in $RUN_DIR"
trap 'leave "$work"' EXIT
# The run is a process group of its own, so that TERM reaches every command of it
# at once; this shell only waits and passes it on.
run='' stopped=''
stop() {
	stopped=1
	if [[ -n $run ]]; then
		kill -TERM -- "-$run" 2>/dev/null || :
		kill -CONT -- "-$run" 2>/dev/null || : # what stands still does not hear
	fi
}
trap stop TERM INT HUP
set -m
backup_all &
run=$!
set +m
if [[ -n $stopped ]]; then stop; fi
status=0
while wait "$run" || status=$?; kill -0 "$run" 2>/dev/null; do status=0; done
((status < 128)) || log_mesg err "### ERROR: the run was stopped by a signal"
log_mesg info "# end backup script $(date)"
exit "$status"
