#!/bin/bash
# xen-backup.sh - keep standby copies of the DomUs that run here on other Dom0s
#
# Run by cron, without arguments, on every Dom0. For each conf file it takes
# snapshots of the DomU's disks and brings the same volumes of every other Dom0
# in DOM0S up to date. Drop-in for the script of that name of 2009.
#
# All but the last line are functions, so that bash has read all of it before the
# run begins: the file may be replaced meanwhile. Each part of a run is a child that
# is waited for (not the left side of "||"), so that "set -e" holds in it; its status
# is 3 if it has said what went wrong.
#
# shellcheck disable=SC2317 # functions called by traps look unreachable
if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
	echo "xen-backup.sh: needs bash 4.4 or newer, and this is $BASH_VERSION" >&2
	exit 78
fi
set -euo pipefail
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/sbin:/bin:/usr/sbin:/usr/bin

usage() {
	cat <<'END'
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
  XML_DIR         where DOMU.xml (xl: DOMU.cfg) is written (CONF_DIR)
  DOMU, DOM0S *   the DomU, and the Dom0s that keep its image
  SNAPSHOT_SIZE * of each COW snapshot (1G)
  EXCLUDE *       disks to leave out: "xvdb xvdc", on KVM "vdb"
  MAP *           other names: "dom0b:/dev/vg/a=/dev/vg2/b ..."
  BWLIMIT *       bytes a second to each Dom0: 20M
  STALL *         seconds without progress after which a copy is given up (900)
  BLOCK_SIZE *, HASH *  for xb-sig (4K, xxh64)
  PAUSE *         no, or auto: pause a DomU of several disks for their snapshots
  FIRST_COPY *    in-place: write a first copy while it arrives (spool)
  SPOOL_DIR *     directory of the other Dom0s for spools (STATE_DIR/spool)
  CREATE_LV *     volume group in which a missing standby is created
  XL_CONFIG *     what xl starts the DomU from (/etc/xen/DOMU.cfg)
  LOCAL_DOM0      this host's name in DOM0S, if it is not found out right
  VIRSH_URI       libvirt connection of this host
  TOOLSTACK       whom xb-locate asks, on every Dom0: auto, virsh or xl (auto)
  JOBS            Dom0s served at the same time (4)
  LOG_FACILITY, LOG_OPTION  for logger (local3, "")
  STATE_DIR       where hosts remember their devices (/var/lib/xen-backup)
  RUN_DIR         lock and ssh connections (/run)

Exit status: 0 done or nothing to do, 3 at least one DomU or Dom0 failed, 64
usage, 73 cannot write to RUN_DIR, 75 another run is at work, 78 configuration
or bash, 143 stopped by a signal.
END
}

# --- messages -----------------------------------------------------------------

log_mesg() { # LEVEL MESSAGE: to syslog; to a terminal; and to cron's mail what is no info, or what syslog does not take
	local level=$1 text=${*:2}
	text=${text//[[:space:]]/ }
	text=${text//[^[:print:]]/?}
	# LOG_OPTION is a list of options.
	# shellcheck disable=SC2086
	if ! logger --socket-errors=on -t "xen-backup.sh[$$]" -p "$LOG_FACILITY.$level" $LOG_OPTION -- "$text" 2>/dev/null ||
		[[ $level != info || -n $dry_run || -t 2 ]]; then
		printf '%s\n' "$text" >&2 || :
	fi
}

log_file() { # LEVEL PREFIX FILE: what a command said
	local line
	while IFS= read -r line || [[ -n $line ]]; do
		log_mesg "$1" "$2${line%$'\r'}"
	done <"$3"
}

die() { # STATUS MESSAGE
	log_mesg err "$2"
	exit "$1"
}

fail() { # STATUS MESSAGE: this part is lost, the others go on
	local status=$1
	case $status in 126 | 127) status=69 ;; esac # no such command
	log_mesg err "### ERROR $status: ${about:+$about: }$2"
	failed=1
	return 3
}

# first_cause prints the status, of those of a pipeline, that tells what went
# wrong: a stage that only saw its neighbour end says 65 or, writing, 74.
first_cause() {
	local cause status all=' ' other=0
	for status; do
		case $status in
		124 | 126 | 127 | 255) status=69 ;; # no answer in time; no such command; ssh
		64) status=76 ;; # it is older than this script, and does not know what it is asked
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

# meaning says in words why a disk was not copied.
meaning() { # STATUS
	case $1 in
	1) echo "they differ" ;;
	65) echo "the stream was cut or damaged, or a size is wrong" ;;
	66) echo "something is missing" ;;
	69) echo "a host or a program does not answer" ;;
	73) echo "no room, or no permission" ;;
	74) echo "I/O error" ;;
	75) echo "somebody else uses the standby or the source" ;;
	76)
		if [[ " ${stages[*]} " = *" 64 "* ]]; then
			echo "xb-patch there is too old for what it is asked to do: update xen-backup on $dom0"
		else
			echo "the other side sends something else: is its login shell silent, is its version ours?"
		fi
		;;
	78) echo "it cannot be done as it is configured" ;;
	80)
		if grep -qs " the standby of " "$t"/said{,.xb-patch}; then
			echo "it is the standby of another disk: two conf files, two names of one device or two Dom0s lead there. Mend DOM0S or" \
				"MAP; or if the DomU or its disk only has another name now, run the xb-patch --adopt below on $dom0"
		elif grep -qs " is missing, although a sync left an image in it" "$t"/said{,.xb-patch}; then
			echo "the standby is gone. Is its file system not mounted?"
		else
			echo "the standby is not what both hosts last had${synced:+, at $synced}. It was started, mounted, repaired or migrated to" \
				"there; or this host has the older image, as after a failover, or after it crashed while much was written." \
				"Overwriting it would lose what was written there.$(last_written) If that can go, on $local_dom0:" \
				"xen-backup.sh --force-diverged $DOMU"
		fi
		;;
	82) echo "its snapshot was lost before the copy was done" ;;
	83) echo "an interrupted apply must be finished first" ;;
	*) echo "it failed" ;;
	esac
}

# last_written tells of image files when each of them was written to; volumes do not know it.
last_written() {
	local here there='' limit=(deadline 60)
	[[ -f $path ]] || return 0
	here=$(stat -Lc %y "$path")
	[[ $target != /* ]] || there=$(remote "$dom0" stat -Lc %y "$target" </dev/null 2>/dev/null) || :
	echo " Last written to: here at ${here%.*}${there:+, there at ${there%.*}}."
}

# --- the other Dom0s ----------------------------------------------------------

valid_name() { [[ $1 =~ ^[A-Za-z0-9_/.+:@][A-Za-z0-9_/.+:@-]*$ ]]; }

# find_ssh_options sets ssh_options, of the last ones those that this ssh knows: no setting of
# ssh_config may put another command in place of ours or take its input away.
find_ssh_options() {
	local option
	ssh_options=(-T -o BatchMode=yes -o ConnectTimeout="$CONNECT_TIMEOUT" -o ServerAliveInterval=10 -o ServerAliveCountMax=30)
	for option in RemoteCommand=none StdinNull=no ForkAfterAuthentication=no \
		Ciphers=^aes128-gcm@openssh.com,aes256-gcm@openssh.com; do # a third fewer cycles than ssh's first choice
		if ssh -F /dev/null -G -o "$option" localhost >/dev/null 2>&1; then ssh_options+=(-o "$option"); fi
	done
	ssh_options+=(-o "ControlPath=$work/%C")
}

limit=() # of a question: in a function, "local limit=(deadline SECONDS)"
deadline() { timeout --foreground "$@"; }

# remote runs a program there. Its words reach a login shell of which nothing is known,
# so they are plain: nothing in them may mean anything to a shell.
remote() { # DOM0 PROGRAM ARGUMENT...: standard input is the caller's
	"${limit[@]}" ssh "${ssh_options[@]}" "$@"
}

ask() { # DOM0 PROGRAM ARGUMENT...: what it says is logged if it fails
	local status=0
	remote "$@" </dev/null >"$work/ask.$1" 2>&1 || status=$?
	((status == 0)) || log_file err "### ${about:+$about, }remote Dom0 $1: " "$work/ask.$1"
	return "$status"
}

is_dead() { grep -qsxF -- "$1" "$work/dead"; } # DOM0

# look_again is for after a stall: a connection whose link was cut looks open for minutes, and
# would cost every disk and DomU of the run its time.
look_again() { # DOM0
	local limit=(deadline $((4 * CONNECT_TIMEOUT))) status=0
	remote "$1" xb-patch --version </dev/null >/dev/null 2>&1 || status=$?
	case $status in
	124 | 255)
		echo "it no longer answers" >"$work/ssh.$1"
		echo "$1" >>"$work/dead"
		;;
	esac
}

# connect opens the one connection to a Dom0 that all commands share. Its stderr
# is a file: a master that keeps cron's pipe open keeps cron waiting. Who does not
# answer is not tried again in this run.
connect() { # DOM0
	local dom0=$1 limit=(deadline $((4 * CONNECT_TIMEOUT))) status=0
	if is_dead "$dom0"; then
		return 1
	elif remote "$dom0" -O check >/dev/null 2>&1; then
		return 0
	fi
	echo "$dom0" >>"$work/masters" # before it is there: whoever is killed meanwhile leaves none unknown
	remote "$dom0" -M -N -f </dev/null >/dev/null 2>"$work/ssh.$dom0" || status=$?
	if ((status == 0)); then
		remote "$dom0" -O check 2>&1 | sed -n "s/.*pid=\([0-9]*\).*/$dom0 \1/p" >>"$work/masters"
		return 0
	fi
	((status != 124)) || echo "it lets nobody log in within $((4 * CONNECT_TIMEOUT)) s" >>"$work/ssh.$dom0"
	echo "$dom0" >>"$work/dead"
	return 1
}

# await waits for a child. One that has failed has said so, if its status is 3.
await() { # PROCESS NAME
	local status=0
	wait "$1" || status=$?
	case $status in
	0) ;;
	3) failed=1 ;;
	*) fail 70 "$2: it broke off with status $status" || : ;;
	esac
}

# leave closes the connections that were opened under a work directory, and
# removes it.
leave() { # DIRECTORY
	local dom0 pid
	if [[ -f $1/masters ]]; then
		while read -r dom0 pid; do
			timeout 5 ssh -o "ControlPath=$1/%C" -O exit "$dom0" </dev/null >/dev/null 2>&1 || :
			# one that waits for a dead host exits neither when told nor by TERM
			if [[ -n $pid ]] && grep -qsaF "ControlPath=$1/" "/proc/$pid/cmdline"; then kill -KILL "$pid" 2>/dev/null || :; fi
		done <"$1/masters"
	fi
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

# ask_dom0 is a child that asks a Dom0 whether the DomU is active there too. Its status
# is 0 if not.
ask_dom0() { # DOM0
	local status=0 limit=(deadline 150)
	if ! connect "$1"; then
		log_file err "### $about, remote Dom0 $1: " "$work/ssh.$1"
		fail 69 "remote Dom0 $1 cannot be reached"
	fi
	remote "$1" xb-locate ${TOOLSTACK:+--toolstack "$TOOLSTACK"} --active "$DOMU" </dev/null >"$work/active.$1" 2>"$work/ask.$1" || status=$?
	case $status:$(<"$work/active.$1") in
	0:no) return ;;
	0:yes) fail 81 "it runs on $1 too: nothing is touched" || return 81 ;;
	0:*) status=76 ;; # a shell that does nothing, or says more
	124:*)
		echo "no answer within 150 s" >>"$work/ask.$1"
		cp "$work/ask.$1" "$work/ssh.$1"
		echo "$1" >>"$work/dead"
		;;
	esac
	# nologin speaks on standard output
	log_file err "### $about, remote Dom0 $1: " "$work/active.$1"
	log_file err "### $about, remote Dom0 $1: " "$work/ask.$1"
	((status != 1)) || status=69
	fail "$(first_cause "$status")" "remote Dom0 $1 cannot tell whether the DomU runs there"
}

# --- one disk to one Dom0 -----------------------------------------------------

# operand prints a path as a plain word: what means something to a shell is percent-encoded.
operand() { # PATH
	local i char code word=''
	if valid_name "$1"; then
		word=$1
	else
		for ((i = 0; i < ${#1}; i++)); do
			char=${1:i:1}
			if [[ $char != [A-Za-z0-9/._-] ]]; then
				printf -v code %d "'$char"
				printf -v char %%%02X $((code & 255))
			fi
			word+=$char
		done
		word=file://$word
	fi
	echo "$word"
}

# target_of prints the standby's device on a Dom0. A rule of MAP names a disk there; so
# where the DomU runs there, its copies have the disk's own name, or that of their rule.
target_of() { # DOM0 SOURCE
	local rule name=$2
	for rule in ${MAP:-}; do
		if [[ $rule = "$1:$2="* ]]; then
			echo "${rule#*=}"
			return
		elif [[ $rule = "$local_dom0:"*"=$2" ]]; then
			name=${rule#*:} name=${name%%=*}
		fi
	done
	for rule in ${MAP:-}; do
		if [[ $name != "$2" && $rule = "$1:$name="* ]]; then
			name=${rule#*=}
			break
		fi
	done
	echo "$name"
}

# a_disk sets, in a child of its own, what belongs to a disk and its standby.
a_disk() { # NUMBER
	source=${sources[$1]} path=${paths[$1]} disk=${disks[$1]} snapshot=${snapshots[$1]:-${sources[$1]}}
	target=$(target_of "$dom0" "$source") place=$dom0:$target about+=", disk $disk" t+=/$1
	sig_options=(--state-dir "$STATE_DIR" -b "${BLOCK_SIZE:-4K}" --hash "${HASH:-xxh64}")
}

# state_of prints what a Dom0 remembers of a standby.
state_of() { # TARGET
	local limit=(deadline 60)
	remote "$dom0" xb-patch --state-dir "$STATE_DIR" --state "$1" </dev/null
}

# prepare_target looks at the standby before anything is sent and sets how it is
# to be written: patch_options and sig_options; and sets by which status xb-patch
# would end without a delta. For a missing or small volume it names the command that
# mends it.
prepare_target() {
	local size state status=0 lv=${target##*/} vg=${target%/*} owner mode limit=(deadline 60) verb
	patch_options=(--state-dir "$STATE_DIR" --peer "$local_dom0" --disk "$DOMU/$disk" ${uuid:+--uuid "$uuid"} ${TOOLSTACK:+--toolstack "$TOOLSTACK"})
	lacks_delta=65
	if [[ -b $path ]]; then
		size=$(blockdev --getsize64 "$path")
		patch_options+=(--sector-size "$(blockdev --getss "$path")")
	else
		size=$(stat -L -c %s "$path")
		patch_options+=(--sector-size 512)
	fi
	state=$(state_of "$target" 2>"$t/state") || status=$?
	if ((status == 66)); then
		if [[ $target != /dev/* ]]; then # a file is made on the way
			patch_options+=(--create) sig_options+=(--missing-ok)
			if [[ -n $force ]]; then patch_options+=(--force-diverged); else patch_options+=(--in-place); fi
			owner=$(stat -Lc %U:%G "$path") mode=$(stat -Lc %a "$path") mode=${mode: -3}
			if [[ -f $path && $owner != *UNKNOWN* ]] && valid_name "$owner"; then patch_options+=(--owner "$owner"); fi
			if [[ -f $path && $mode = [67]?? ]]; then patch_options+=(--mode "$mode"); fi
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
				ask "$dom0" lvcreate -y -W y -L "${size}b" -n "$lv" "$CREATE_LV"
			fi || fail 73 "cannot create $dom0:$target"
		fi
		return
	elif ((status != 0)); then
		log_file err "### $about, remote Dom0 $dom0: " "$t/state"
		fail "$(first_cause "$status")" "cannot look at $dom0:$target"
	elif [[ $state != '{'*'"phase":'* ]]; then
		fail 76 "$dom0 answers with something else; is its login shell silent? ${state%%$'\n'*}"
	fi
	there_size=$(member device_size "$state") synced=$(last_common)
	if [[ $target = /dev/* ]] && ((${there_size:-$size} < size)); then
		fail 65 "$dom0:$target is too small; on $dom0: lvextend -L ${size}b $target"
	fi
	case $state in
	*'"phase":"applying"'*)
		log_mesg info "### remote Dom0 $dom0: ${dry_run:+would }finish the interrupted apply on $target"
		lacks_delta=83
		if [[ -z $dry_run ]]; then # once a DomU: that of one disk finishes all of its set, or tells why it cannot
			[[ ! -e ${t%/*}/unfinished ]] || fail 83 "the apply on $place is not finished either"
			: >"${t%/*}/unfinished"
			verb=(--recover "$target")
			watched "cannot finish the apply on $place" at_once
			rm "${t%/*}/unfinished"
		fi
		;;
	*'"phase":"incomplete"'*'"sent":'*) ;; # what was sent from there may be newer
	*'"phase":"incomplete"'*) [[ -n $force ]] || patch_options+=(--in-place) ;;
	*'"phase":"clean"'* | *'"sent":'*) same_kind ;;
	*) # what a longer file has more would be cut off without a proof
		[[ ${FIRST_COPY:-spool} != in-place || $target != /dev/* && ${there_size:-0} -gt $size ]] || patch_options+=(--in-place)
		;;
	esac
	[[ -z $force || " ${patch_options[*]} " = *' --in-place '* ]] || patch_options+=(--force-diverged)
}

# member prints a string or number of a state, which is one line of JSON.
member() { # NAME STATE
	[[ ! $2 =~ \"$1\":\"?([A-Za-z0-9:.-]+) ]] || echo "${BASH_REMATCH[1]}"
}

# last_common prints when that host and this one last had the same image: one that it got from
# here, or sent here when the DomU ran there. What it has only seen since is none.
last_common() {
	grep -o '{[^{}]*' <<<"$state" | grep -F '"phase":"clean"' | grep -F "\"peer\":\"$local_dom0\"" |
		grep -o '"time":"[^"]*"' | sort | tail -n 1 | cut -d '"' -f 4 || :
}

# same_kind refuses, and calls by its name, what would else pass for divergence.
same_kind() {
	local size=${BLOCK_SIZE:-4K} hash recorded
	size=${size^^} size=${size%B} size=$(numfmt --from=iec "${size%I}")
	hash=$(member hash "$state") recorded=$(member block_size "$state")
	[[ -z $force && -n $hash && $hash:$recorded != "${HASH:-xxh64}:$size" ]] || return 0
	fail 80 "the copy $dom0:$target was made with HASH=$hash and BLOCK_SIZE=$recorded, and now HASH=${HASH:-xxh64} and BLOCK_SIZE=$size are set. To change that, on $local_dom0, once: xen-backup.sh --force-diverged $DOMU"
}

# try_target asks, for --dry-run, whether xb-patch would take the standby as it is.
try_target() { # DOM0 TARGET
	local status=0 stages limit=(deadline 60)
	[[ -n $lacks_delta ]] || return 0 # it is to be created yet
	remote "$1" xb-patch --dry-run "${patch_options[@]}" "$2" </dev/null >"$t/try" 2>"$t/said" || status=$?
	if [[ -s $t/try ]]; then
		fail 76 "$1 answers with something else; is its login shell silent? $(head -n 1 "$t/try")"
	elif ((status == 64)); then
		stages=("$status")
		fail 76 "$1:$2 cannot be written to: $(meaning 76)"
	elif ((status != lacks_delta)); then
		fail "$(first_cause "$status")" "$1:$2 cannot be written to" || :
		in_our_words "$t/said"
		log_file err "#### $about, remote Dom0 $1: " "$t/said"
		return 3
	fi
}

# watch ends the stages that note their process numbers in a directory, once none of them has
# told of progress for STALL seconds.
watch() { # DIRECTORY PARENT: of the stages
	local told='' now since=$SECONDS pid
	mkfifo "$1/never"
	# it waits without a program that would outlive it
	while ! read -rt $((STALL < 40 ? (STALL + 3) / 4 : 10)) <>"$1/never" && [[ -d $1 ]]; do
		now=$(cat "$1"/said.{xb-sig,xb-delta,xb-patch} 2>/dev/null | grep -cx progress) || :
		if [[ $now != "$told" ]]; then
			told=$now since=$SECONDS
		elif ((SECONDS - since >= STALL)); then
			: >"$1/stalled"
			while read -r pid; do # of one that has ended the number may be somebody else's
				grep -qsx "PPid:[[:space:]]*$2" "/proc/$pid/status" || continue
				kill "$pid" 2>/dev/null || :
				kill -CONT "$pid" 2>/dev/null || :
			done < <(cat "$1"/pid.{xb-sig,xb-delta,xb-patch})
		fi
	done
}

# stage runs one of a pipeline that is watched. What it says is in a file.
stage() { # NAME PROGRAM...
	echo "$BASHPID" >"$t/pid.$1"
	exec "${@:2}" 2>>"$t/said.$1"
}

# in_our_words leaves out what is told already, and puts settings in place of options that this
# script does not have.
in_our_words() { # FILE: what a program said
	sed -i -E -e '/^$|^progress$|^waiting$|^xb-delta: standard output: broken pipe$/d' \
		-e 's/use -b and --hash as before/set BLOCK_SIZE and HASH as before/; s/, without --in-place//; s/without --in-place/with FIRST_COPY=spool/' \
		-e "s/--spool/SPOOL_DIR/; s/--force-diverged/xen-backup.sh & $DOMU/" "$1"
}

# watched runs a pipeline of stages, sets status to what went wrong with it, and logs what they
# said.
watched() { # WORDS-OF-A-FAILURE FUNCTION: that runs the pipeline and sets stages
	local stages=(0) level=warning parent=$BASHPID watcher said
	rm -f "$t"/{pid,said}.{xb-sig,xb-delta,xb-patch} "$t"/{stalled,never}
	watch "$t" "$parent" &
	watcher=$!
	"$2"
	kill "$watcher" 2>/dev/null || :
	wait "$watcher" || :
	status=$(first_cause "${stages[@]}")
	if [[ -e $t/stalled ]]; then
		fail 69 "$1: no progress for $STALL s" || status=69
		look_again "$dom0"
	elif ((status != 0)); then
		fail "$status" "$1: $(meaning "$status")" || :
	fi
	((status == 0)) || level=err
	for said in "$t"/said.{xb-sig,xb-delta,xb-patch}; do
		[[ -e $said ]] || continue
		in_our_words "$said"
		log_file "$level" "#### $about, $place: " "$said"
	done
	((status == 0)) || return 3
}

copy() {
	stage xb-sig "${there[@]}" xb-sig --heartbeat "${sig_options[@]}" "$target" </dev/null |
		stage xb-delta xb-delta --heartbeat ${BWLIMIT:+--bwlimit "$BWLIMIT"} --summary "$t/summary" "$snapshot" |
		stage xb-patch "${there[@]}" xb-patch --heartbeat "${patch_options[@]}" "$target" >>"$t/said.xb-patch" || stages=("${PIPESTATUS[@]}")
}

compare() {
	stage xb-sig "${there[@]}" xb-sig --heartbeat "${sig_options[@]}" "$target" </dev/null |
		stage xb-delta xb-delta --heartbeat --check "$snapshot" >"$t/verify" || stages=("${PIPESTATUS[@]}")
}

at_once() {
	(stage xb-patch "${there[@]}" xb-patch --heartbeat --state-dir "$STATE_DIR" "${verb[@]}" </dev/null >>"$t/said.xb-patch") || stages=("$?")
}

# sync_disk is a child that brings one standby up to date. Where the DomU has several, the new
# image is only held there.
sync_disk() { # NUMBER: of the disk
	local status lacks_delta there_size='' patch_options
	a_disk "$1"
	! is_dead "$dom0" || fail 69 "remote Dom0 $dom0 cannot be reached"
	mkdir -p "$t" || fail 73 "cannot create a directory in $work"
	prepare_target
	[[ -z ${SPOOL_DIR:-} || " ${patch_options[*]} " = *' --in-place '* ]] || patch_options+=(--spool "$SPOOL_DIR")
	[[ -z $set ]] || patch_options+=(--hold "$set" --taken "$taken")
	if [[ -n $dry_run ]]; then
		try_target "$dom0" "$target"
		log_mesg info "### would sync $DOMU from $local_dom0 to $dom0: $source to $target"
		return
	fi
	log_mesg info "### sync $DOMU from $local_dom0 to $dom0: $source to $target"
	watched "$source was not copied to $place" copy
}

# commit is a child that makes the images which are held on a Dom0 its standbys, all or none.
commit() {
	local status i verb=(--commit "$set" --peer "$local_dom0")
	for i in "${sources[@]}"; do verb+=("$(target_of "$dom0" "$i")"); done
	log_mesg info "### commit $DOMU on $dom0: ${disks[*]}, of $taken"
	watched "its disks on $dom0 did not become the new ones together" at_once
}

# confirm is a child that remembers, tells and verifies what a standby has now.
confirm() { # NUMBER: of the disk
	local status
	a_disk "$1"
	xb-patch --state-dir "$STATE_DIR" --record "$source" --peer "$dom0" <"$t/summary" || fail $? "cannot remember what $dom0 has of $source"
	log_mesg info "#### $place: $(sed -E 's/.*"bytes_changed":([0-9]+),"bytes_sent":([0-9]+).*/\1 bytes changed, \2 sent/' "$t/summary")"
	if [[ -n $verify ]]; then
		watched "$place was compared with its source" compare
		log_mesg info "#### $place: verified, $(<"$t/verify")"
	fi
}

# standby_time says of when the standby of a DomU is: one set, or each disk.
standby_time() {
	local i state status when first='' all=''
	for i in "${!sources[@]}"; do
		status=69
		if ! is_dead "$dom0"; then
			status=0
			# what is in braces was sent from there, or is held
			state=$(state_of "$(target_of "$dom0" "${sources[i]}")" 2>/dev/null | sed -E 's/(.)\{[^{}]*\}/\1/g') || status=$?
		fi
		case $status in
		0) when=$(member phase "$state") ;;
		69 | 124 | 255) echo "cannot be asked of when it is" && return ;;
		*) when=missing state='' ;;
		esac
		if [[ $when = clean ]]; then when=$(member taken "$state") when=${when:-$(member time "$state")}; fi
		all+=", ${disks[i]} $when"
		[[ $state = *'"whole_set":true'* && $when = "${first:=$when}" ]] || first=none
	done
	if [[ $first = none ]]; then echo "is of no one set: ${all#, }"; else echo "is of $first"; fi
}

# sync_to is a child that brings one Dom0 up to date: every disk, and when all are there the
# document by which the DomU starts from them. The disks of a DomU of several become the new
# ones together, or none does.
sync_to() { # DOM0
	local dom0=$1 place=$1 t=$work/sync.$1 i set='' lost=() path='' synced='' there=(ssh "${ssh_options[@]}" "$1")
	rm -rf "$t"
	if ((${#sources[@]} > 1)); then
		set=$(head -c 16 /dev/urandom | base32) set=${set,,} set=${set%%=*}
	fi
	for i in "${!sources[@]}"; do
		failed=0 # whatever happened to other Dom0s
		sync_disk "$i" &
		await "$!" "disk ${disks[i]} to $dom0"
		((failed == 0)) || lost+=("${disks[i]}")
	done
	failed=${#lost[@]}
	[[ -z $dry_run ]] || exit $((failed ? 3 : 0))
	if [[ -n $set ]] && ((failed == 0)); then
		commit &
		await "$!" "the commit on $dom0"
	fi
	if ((failed == 0)); then
		[[ ! -s $work/document ]] || store_document "$dom0"
		for i in "${!sources[@]}"; do
			confirm "$i" &
			await "$!" "disk ${disks[i]} on $dom0"
		done
	elif [[ -n $set ]]; then
		log_mesg err "### $about: ${lost[*]:+failed: ${lost[*]}; }its standby on $dom0 $(standby_time)"
	fi
	exit $((failed ? 3 : 0))
}

store_document() { # DOM0
	local i target status=0 options=(${set:+--set "$set" --taken "$taken"}) limit=(deadline 300) bundle=$work/bundle
	[[ -s $bundle ]] || bundle=$work/document
	for i in "${!sources[@]}"; do
		target=$(target_of "$1" "${sources[i]}")
		[[ $target = "${sources[i]}" ]] || options+=(--map "${sources[i]}=$target")
	done
	for i in ${EXCLUDE:-}; do options+=(--drop "$i"); done
	remote "$1" xb-locate --store "$DOMU" --state-dir "$STATE_DIR" "${options[@]}" \
		<"$bundle" >"$work/store.$1" 2>&1 || status=$?
	((status == 0)) || fail "$(first_cause "$status")" "remote Dom0 $1 cannot store its document" || failed=1
	sed -n '/ left out: /p' "$work/store.$1" >"$work/left-out.$1"
	sed -i '/ left out: /d' "$work/store.$1"
	log_file info "## remote Dom0 $1: " "$work/left-out.$1"
	log_file warning "## remote Dom0 $1: " "$work/store.$1"
}

# --- one DomU -----------------------------------------------------------------

libvirt() { deadline 30 virsh ${VIRSH_URI:+-c "$VIRSH_URI"} "$@"; }
xl() { deadline 30 xl "$@"; }

# toolstack sets the options that tell xb-locate on this host whom to ask.
toolstack() {
	toolstack=()
	if [[ -n ${VIRSH_URI:-} ]]; then toolstack+=(--connect "$VIRSH_URI"); fi
	if [[ -n ${TOOLSTACK:-} ]]; then toolstack+=(--toolstack "$TOOLSTACK"); fi
	config=(${XL_CONFIG:+--xl-config "$XL_CONFIG"})
}

# locate is a child that finds the disks and the document, or says with xb-locate's status
# why there are no disks. Without a document the disks are copied all the same.
locate() {
	local exclude=() target toolstack config status=0
	toolstack
	for target in ${EXCLUDE:-}; do exclude+=(--exclude "$target"); done
	if [[ -z $final ]]; then
		xb-locate "${toolstack[@]}" "${exclude[@]}" --note "$work/note" "$DOMU" >"$work/disks" 2>"$work/locate" || status=$?
		if ((status == 1)) && ! grep -q '^xb-locate: ' "$work/locate"; then status=70; fi # not its word
	else
		xb-locate "${toolstack[@]}" --active --final "$DOMU" >"$work/disks" 2>"$work/locate" || status=$?
		if [[ $(<"$work/disks") = yes ]]; then
			echo "it still runs here: shut it down for --final" >"$work/locate"
			status=75
		fi
	fi
	((status == 0)) || exit "$status"
	xb-locate -v --document --bundle "$work/bundle" "${toolstack[@]}" "${config[@]}" "$DOMU" >"$work/document" 2>"$work/document.said" || status=$?
	if [[ -n $final ]]; then
		((status == 0)) || cp "$document" "$work/document" || exit 66
		xb-locate "${exclude[@]}" --xml "$work/document" >"$work/disks" 2>"$work/locate"
	elif ((status != 0)); then
		: >"$work/document"
	fi
}

# still_the_same asks again when the snapshots are there: a disk that another one took the
# place of meanwhile, or a DomU that has ended, is not what they hold.
still_the_same() {
	local exclude=() target toolstack config status=0
	toolstack
	for target in ${EXCLUDE:-}; do exclude+=(--exclude "$target"); done
	xb-locate "${toolstack[@]}" "${exclude[@]}" --still "$work/note" "$DOMU" >/dev/null 2>"$work/locate" || status=$?
	((status)) || return 0
	log_file err "## $about: " "$work/locate"
	fail "$status" "it was changed while its snapshots were taken: nothing is sent"
}

# stopped_by_error makes a DomU that stands still because its disk cannot be written an error,
# whoever caused it.
stopped_by_error() {
	[[ ${TOOLSTACK:-} = xl || $(libvirt domstate --reason "$DOMU" 2>/dev/null || :) != 'paused (I/O error)' ]] ||
		fail 74 "it is paused by an I/O error: is there room where its disks are? Then: virsh resume $DOMU" || :
}

# skip ends the run for a DomU that is not copied: an error if it was asked for by name.
skip() { # REASON
	if ((${#only[@]})); then
		log_mesg err "## SKIP: DomU $DOMU $1"
		failed=1
	else
		log_mesg info "## SKIP: DomU $DOMU $1"
	fi
	finish
}

# is_unknown tells a DomU that was never copied and that no Dom0 knows: its conf file must mean
# another one. If one cannot be asked it is not.
is_unknown() {
	local dom0 toolstack config limit=(deadline 60)
	toolstack
	for dom0 in "$document" "$STATE_DIR/xml/$DOMU".{xml,cfg}; do
		[[ ! -e $dom0 ]] || return 1
	done
	[[ $(xb-locate "${toolstack[@]}" "${config[@]}" --known "$DOMU" 2>/dev/null) = no ]] || return 1
	for dom0 in $DOM0S; do
		if ! is_myname "$dom0"; then
			connect "$dom0" || return 1
			[[ $(remote "$dom0" xb-locate ${TOOLSTACK:+--toolstack "$TOOLSTACK"} --known "$DOMU" </dev/null 2>/dev/null) = no ]] || return 1
		fi
	done
}

domain_state() { # virsh|xl: prints running, paused or another word
	case $1 in
	virsh) libvirt domstate "$DOMU" ;;
	xl) xl list "$DOMU" | awk 'NR == 2 { print substr($5, 3, 1) == "p" ? "paused" : "running" }' ;;
	esac 2>/dev/null
}

# watchdog is a session of its own, so that it outlives the run whatever becomes of that.
# It pauses the DomU, and resumes it when it is told to, by TERM, and after PAUSE_LIMIT
# seconds anyway. A toolstack may carry a request out when nobody waits for it any more:
# whoever asks for a pause stays until it has ended, or can't come any more.
watchdog() { # virsh|xl FILE: says in FILE.paused that it is, in FILE.late that it is no longer
	local tool=$1 client since said told='' status='' till
	trap 'told=1' TERM
	trap '' INT HUP
	case $tool in
	virsh) virsh -k0 ${VIRSH_URI:+-c "$VIRSH_URI"} suspend "$DOMU" ;; # with keepalives it would stop waiting
	xl) command xl pause "$DOMU" ;;
	esac >"$2.said" 2>&1 &
	client=$!
	while kill -0 "$client" 2>/dev/null && [[ -z $told ]]; do sleep 0.1; done
	if [[ -z $told ]]; then
		wait "$client" && status=0 || status=$?
	fi
	if [[ $status = 0 ]]; then
		: >"$2.paused"
		since=$SECONDS
		while [[ -z $told ]] && ((SECONDS - since < PAUSE_LIMIT)); do sleep 0.1; done
		[[ -n $told ]] || : >"$2.late"
	fi
	till=$((SECONDS + PAUSE_WATCH))
	while :; do
		case $(domain_state "$tool"):$status in
		paused:*)
			said=$(if [[ $tool = virsh ]]; then libvirt resume "$DOMU"; else xl unpause "$DOMU"; fi 2>&1) && break
			echo "$said" >"$2.said" # the run may be gone, and its directory
			;;
		:*) ;; # nobody knows
		*:0) break ;; # it runs or has ended
		esac
		((SECONDS < till)) || kill -0 "$client" 2>/dev/null || break
		sleep 1
	done
	kill "$client" 2>/dev/null
}

# pause_domain brackets, with resume_domain, the snapshots of several disks.
pause_domain() {
	local tool tenths
	[[ ${PAUSE:-no} = auto && ${#sources[@]} -gt 1 ]] || return 0
	if [[ ${TOOLSTACK:-} != xl && $(domain_state virsh || :) = running ]]; then
		tool=virsh
	elif [[ $(domain_state xl || :) = running ]]; then
		tool=xl
	else
		return 0 # paused already, or going away: not ours to resume
	fi
	log_mesg info "## pause DomU $DOMU"
	rm -f "$work"/pause.*
	DOMU=$DOMU VIRSH_URI=${VIRSH_URI:-} PAUSE_LIMIT=$PAUSE_LIMIT PAUSE_WATCH=$PAUSE_WATCH \
		setsid bash -c "$(declare -f deadline libvirt xl domain_state watchdog); "'watchdog "$@"' watchdog "$tool" "$work/pause" \
		</dev/null >/dev/null 2>&1 &
	watchdog=$!
	disown "$watchdog" # no job that counts or is waited for
	for ((tenths = 0; tenths < PAUSE_WAIT * 10; tenths++)); do
		[[ ! -e $work/pause.paused ]] || return 0
		kill -0 "$watchdog" 2>/dev/null || break
		sleep 0.1
	done
	[[ ! -s $work/pause.said ]] || log_file err "## cannot pause DomU $DOMU: " "$work/pause.said"
	fail 69 "it does not let itself be paused, and is not backed up"
}

resume_domain() {
	local tenths
	[[ -n $watchdog ]] || return 0
	kill "$watchdog" 2>/dev/null || :
	for ((tenths = 0; tenths < PAUSE_WAIT * 10; tenths++)); do
		kill -0 "$watchdog" 2>/dev/null || break
		sleep 0.1
	done
	if [[ -e $work/pause.late ]]; then
		log_mesg warning "## DomU $DOMU ran again before all snapshots were taken: its disks are not of one instant"
	fi
	if [[ -e $work/pause.paused ]] && kill -0 "$watchdog" 2>/dev/null; then
		[[ ! -s $work/pause.said ]] || log_file err "## cannot resume DomU $DOMU: " "$work/pause.said"
		fail 69 "it is still paused; this is tried again every second, for 5 minutes" || :
	fi
	watchdog=''
}

take_snapshots() {
	local status=0 i
	pause_domain
	xb-snap create -v --state-dir "$STATE_DIR" --owner "$run" --size "${SNAPSHOT_SIZE:=1G}" "${sources[@]}" \
		>"$work/snapshots" 2>"$work/snap" || status=$?
	resume_domain
	log_file info "## $about: " <(grep ' taken within ' "$work/snap")
	log_file "$( ((status)) && echo err || echo warning)" "## $about: " <(grep -v -e ' taken within ' -e "^try '" "$work/snap")
	((status != 64)) || status=78 # it is not by this script that they are used wrongly
	((status == 0)) || fail "$status" "no snapshots"
	mapfile -t snapshots <"$work/snapshots"
	for i in "${!sources[@]}"; do
		log_mesg info "### local Dom0 $local_dom0: take snapshot ${snapshots[i]##*/} for ${sources[i]}$([[ ${snapshots[i]} != /dev/* ]] || echo " with size $SNAPSHOT_SIZE")"
		snapshots[i]=$(operand "${snapshots[i]}")
	done
}

leave_domu() { # whatever happened, nothing stays behind
	trap '' TERM INT HUP
	resume_domain
	# from the file: a signal may come before they are in the variable
	mapfile -t snapshots <"$work/snapshots"
	# in a session of its own, where no second signal to this run reaches it
	if ((${#snapshots[@]})) && ! setsid --wait xb-snap remove --state-dir "$STATE_DIR" "${snapshots[@]}" 2>"$work/snap"; then
		log_file err "## $about: " "$work/snap"
		exit 3
	fi
}

# check_settings refuses what would else be found out late, or never.
check_settings() { # CONF
	local size='^[0-9]+(\.[0-9]+)?([kmgt](i?b)?|b)?$' setting value
	local path='(/[A-Za-z0-9_/.+:@-]+|file:///[A-Za-z0-9_/.%-]+)'
	shopt -s nocasematch
	for setting in SNAPSHOT_SIZE BWLIMIT; do
		[[ -z ${!setting:-} || ${!setting} =~ $size && ${!setting} = *[1-9]* ]] || fail 78 "$1: bad $setting: ${!setting}"
	done
	shopt -u nocasematch
	for setting in HASH:xxh64:sha256 PAUSE:no:auto FIRST_COPY:spool:in-place TOOLSTACK:auto:virsh:xl; do
		value=${setting%%:*}
		value=${!value:-}
		[[ -z $value || $setting: = *":$value:"* ]] || fail 78 "$1: bad ${setting%%:*}: $value"
	done
	[[ -z ${BLOCK_SIZE:-} ]] || xb-sig -b "$BLOCK_SIZE" --missing-ok "$work/none" >/dev/null 2>&1 || fail 78 "$1: bad BLOCK_SIZE: $BLOCK_SIZE"
	if ! valid_name "${CREATE_LV:-none}" || [[ ${CREATE_LV:-} = */* ]]; then fail 78 "$1: bad CREATE_LV: $CREATE_LV"; fi
	if ! valid_name "${SPOOL_DIR:-/}" || [[ ${SPOOL_DIR:-/} != /* ]]; then fail 78 "$1: bad SPOOL_DIR: $SPOOL_DIR"; fi
	for setting in ${MAP:-}; do
		[[ $setting =~ ^[A-Za-z0-9_.:@-]+:$path=$path$ ]] || fail 78 "$1: bad rule in MAP: $setting"
	done
	for setting in JOBS STALL; do
		[[ ${!setting} =~ ^[1-9][0-9]{0,7}$ ]] || fail 78 "$1: bad $setting: ${!setting}"
	done
	[[ $DOM0S = *[![:space:]]* ]] || fail 78 "$1: DOM0S names no Dom0"
	for setting in "$DOMU" $DOM0S; do
		if ! valid_name "$setting" || [[ $setting = */* ]]; then
			fail 78 "$1: bad or missing name in DOMU or DOM0S: '$setting'"
		fi
	done
	for setting in ${EXCLUDE:-}; do
		valid_name "$setting" || fail 78 "$1: bad name in EXCLUDE: $setting"
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
				fail 78 "$source would overwrite$(head -n 1 "$work/conf")"
			fi
			echo "$standby $DOMU $source" >>"$work/standbys"
		done
	done
}

# check_map tells of the rules that no disk of the DomU comes under: its standby is elsewhere
# then. A name that it has, or had, on another Dom0 is in no way wrong.
check_map() {
	local rule dom0 name
	for rule in ${MAP:-}; do
		dom0=${rule%%:*} name=${rule#*:} name=${name%%=*}
		if [[ " $DOM0S " != *" $dom0 "* ]]; then
			log_mesg warning "## $about: MAP names $dom0, which is not in DOM0S: $rule"
		elif [[ " ${remotes[*]} " = *" $dom0 "* && " ${sources[*]} " != *" $name "* &&
			" $MAP " != *"=$name "* && " $MAP" != *" $local_dom0:$name="* ]]; then
			log_mesg warning "## $about: MAP names $name, which is no disk that is copied (${sources[*]}): $rule"
		fi
	done
}

# read_conf sources a conf file, or ends the subshell that it runs in.
read_conf() { # CONF
	DOMU='' DOM0S=''
	# Of a file with an error bash would take the part before it, and leave out a MAP.
	if [[ ! -f $1 ]] || ! bash -n "$1" 2>"$work/conf"; then
		if ((${#only[@]})); then # who is asked for and has no other is told of below
			echo "$1" >>"$work/unread"
			finish
		fi
		log_file err "## " "$work/conf"
		fail 78 "$1: not a file of shell variables"
	fi
	names=$(compgen -v) wide=$(run_wide)
	set +eu # as the script of 2009 did
	# The file may use these names for something of its own.
	eval '. "$1" 2>"$work/conf";' "$(declare -p dry_run verify final force only work failed finished about asked run names wide | sed 's/^declare /declare -g /')"
	DOMU=${DOMU:-} DOM0S=${DOM0S[*]:-} MAP=${MAP[*]:-} EXCLUDE=${EXCLUDE[*]:-}
	set -euf +C # no names of files in lists
	# "MAP = ..." and a list without quotes are commands that are not found, and no MAP.
	((${#only[@]} == 0)) || [[ " ${only[*]} " = *" $DOMU "* ]] || finish
	if grep -qsF "$1: line " "$work/conf"; then
		log_file err "## " "$work/conf"
		fail 78 "$1: not a file of shell variables"
	fi
	log_file warning "## $1: " "$work/conf"
	check_names "$1"
}

# run_wide prints the settings that are for the whole run.
run_wide() {
	{ declare -p CONF_DIR XML_DIR LOCAL_DOM0 VIRSH_URI TOOLSTACK JOBS STATE_DIR RUN_DIR 2>/dev/null || :; } | sed 's/^declare -[^ ]* //' | sort
}

# check_names finds names that a conf file has set to no effect.
check_names() { # CONF
	local name known=' DOMU DOM0S SNAPSHOT_SIZE EXCLUDE MAP BWLIMIT STALL BLOCK_SIZE HASH PAUSE FIRST_COPY SPOOL_DIR CREATE_LV XL_CONFIG'
	name=$(run_wide | comm -13 <(echo "$wide") - | head -n 1)
	[[ -z $name ]] || fail 78 "$1: ${name%%=*} is for the whole run: set it in the environment, in cron above the command"
	known+=' LOG_FACILITY LOG_OPTION CDPATH COPROC COPROC_PID GLOBIGNORE MAPFILE OLDPWD OPTARG REPLY TIMEFORMAT TMOUT ' # and some of bash
	for name in $(compgen -v | sort | comm -13 <(sort <<<"$names") -); do
		# what is exported is for a program
		[[ $name = [A-Z]* && $name != *[!A-Z0-9_]* && $name != BASH* && $known != *" $name "* && ! $(declare -p "$name") =~ ^declare\ -[^\ ]*x ]] || continue
		grep -qE "(^|[^A-Za-z0-9_])$name([^A-Za-z0-9_=+]|\$)" "$1" || log_mesg warning "## $1: $name is no setting, and nothing uses it"
	done
}

# find_dom0s sets local_dom0 and remotes.
find_dom0s() {
	local dom0 status unknown=''
	for dom0 in $DOM0S; do
		status=0
		is_myname "$dom0" || status=$?
		if ((status == 0)); then
			[[ -z $local_dom0 || $local_dom0 = "$dom0" ]] ||
				fail 78 "DOM0S: both $local_dom0 and $dom0 lead to this host; is its /etc/hosts a copy of another one's?"
			local_dom0=$dom0
		elif [[ " ${remotes[*]} " != *" $dom0 "* ]]; then
			remotes+=("$dom0")
			((status == 1)) || unknown=$dom0
		fi
	done
	if [[ -z $local_dom0 && -n $unknown ]]; then
		fail 69 "cannot tell which of DOM0S is this host: $unknown cannot be resolved"
	elif [[ -z $local_dom0 ]]; then
		fail 78 "it is this host's to copy, and DOM0S does not name this host (if it does, set LOCAL_DOM0): $DOM0S"
	elif ((${#remotes[@]} == 0)); then
		fail 78 "DOM0S names no Dom0 but this one: $DOM0S"
	fi
}

# ask_dom0s sets reachable. Before anything is touched it asks whether the DomU runs
# elsewhere too: then neither image is known to be the right one.
ask_dom0s() {
	local dom0 status children=() twice=''
	for dom0 in "${remotes[@]}"; do
		ask_dom0 "$dom0" &
		children+=($!)
	done
	for dom0 in "${remotes[@]}"; do
		status=0
		wait "${children[0]}" || status=$?
		children=("${children[@]:1}")
		case $status in
		0) reachable+=("$dom0") ;;
		81) twice=1 ;;
		*) failed=1 ;;
		esac
	done
	[[ -z $twice ]] || exit 3
}

# keep_document writes the DomU's document beside the conf file.
keep_document() {
	local level=warning name=$document
	[[ -s $work/document ]] || level=err
	# what must be on the other Dom0s too is said at every run, and mailed at none
	log_file "$level" "## $about: " <(grep -vE " needs the | not carried: " "$work/document.said")
	log_file info "## $about: " <(grep -E " needs the | not carried: " "$work/document.said")
	if [[ $level = err ]]; then
		fail 66 "the other Dom0s get no document to start it from" || :
	elif [[ -z $dry_run ]]; then
		name=${XML_DIR:-$CONF_DIR}/$DOMU.cfg
		[[ $(head -c 1 "$work/document") != '<' ]] || name=${name%cfg}xml
		if ! (umask 077 && cp "$work/document" "$name.tmp" && sync "$name.tmp" && mv -T "$name.tmp" "$name" && sync "${name%/*}") 2>"$work/conf"; then
			rm -f "$name.tmp"
			fail 73 "cannot write $name: $(<"$work/conf")" || :
		fi
	fi
}

# finish ends the run of one conf file, with a status that a conf file which ends it
# does not have.
finish() { exit $((failed ? 3 : finished)); }

# backup_domu is a child that does one conf file; what the file sets is gone afterwards.
backup_domu() { # CONF
	read_conf "$1"
	local dom0 status=0 disk path jobs=()
	# not local, for they are of use to the trap when "set -e" has left all functions
	disks=() sources=() paths=() snapshots=() remotes=() reachable=() local_dom0='' watchdog='' document='' uuid='' taken=''
	((${#only[@]} == 0)) || [[ " ${only[*]} " = *" $DOMU "* ]] || finish
	echo "$DOMU" >>"$work/found"
	log_mesg info "## checking DomU $DOMU"
	check_settings "$1"
	about="DomU $DOMU"
	[[ -z $final ]] || JOBS=1 # what is no snapshot must have but one reader
	document=${XML_DIR:-$CONF_DIR}/$DOMU.xml
	if [[ ${document%xml}cfg -nt $document ]]; then document=${document%xml}cfg; fi
	: >"$work/snapshots"
	rm -f "$work/bundle"
	trap 'leave_domu' EXIT
	trap 'exit 143' TERM INT HUP

	if [[ ${VIRSH_URI:-}:${TOOLSTACK:-} = "$asked" ]] && grep -qsxF "$DOMU"$'\tno' "$work/active"; then
		grep -F "xb-locate: $DOMU is " "$work/inactive" >"$work/locate" || :
		status=1
	else
		locate &
		wait "$!" || status=$?
	fi
	case $status in
	0) log_file warning "## $about: " "$work/locate" ;; # disks that are left out
	1)
		if is_unknown; then fail 78 "no Dom0 knows a DomU of that name, and it was never copied: is DOMU right in $1?"; fi
		skip "is not running on this host: $(head -n 1 "$work/locate")"
		;;
	*)
		log_file err "## $about: " "$work/locate"
		fail "$status" "it is not backed up"
		;;
	esac
	while IFS=$'\t' read -r disk path; do
		disks+=("$disk") paths+=("$path") sources+=("$(operand "$path")")
	done <"$work/disks"
	[[ ! -s $work/document ]] || uuid=$(xb-locate --uuid --xml "$work/document")
	find_dom0s
	((${#sources[@]})) || fail 78 "it has no disk to copy, or EXCLUDE names them all: ${EXCLUDE:-}"
	log_mesg info "## BACKUP: DomU $DOMU to remote Dom0(s): [${remotes[*]}]"
	keep_document
	stopped_by_error
	check_map
	check_targets
	ask_dom0s
	((${#reachable[@]})) || finish

	taken=$(date -u +%FT%TZ)
	if [[ -n $final ]]; then
		:
	elif [[ -z $dry_run ]]; then
		take_snapshots
		still_the_same
	elif xb-snap create --dry-run --state-dir "$STATE_DIR" --size "$SNAPSHOT_SIZE" "${sources[@]}" 2>"$work/snap" || status=$?; then
		((status == 0)) || fail "$status" "no snapshots can be taken: $(<"$work/snap")" || :
	fi
	for dom0 in "${reachable[@]}"; do
		while (($(jobs -pr | wc -l) >= JOBS)); do wait -n || :; done
		sync_to "$dom0" &
		jobs+=($!)
	done
	for dom0 in "${jobs[@]}"; do
		await "$dom0" "a Dom0"
	done
	stopped_by_error
	finish
}

# --- the run ------------------------------------------------------------------

# ask_this_host finds out at once which DomUs of all conf files are not here, for each no may
# take its time. No conf file is run for this: who has settings of its own is asked for alone.
ask_this_host() {
	local domus
	mapfile -t domus < <(sed -n "s/^[[:space:]]*DOMU=[\"']\{0,1\}\([A-Za-z][A-Za-z0-9_.+-]*\).*/\1/p" "$CONF_DIR"/*.conf 2>/dev/null | sort -u)
	((${#domus[@]} > 1)) && [[ -z $final ]] || return 0
	asked=${VIRSH_URI:-}:${TOOLSTACK:-}
	xb-locate -v --active ${VIRSH_URI:+--connect "$VIRSH_URI"} ${TOOLSTACK:+--toolstack "$TOOLSTACK"} "${domus[@]}" \
		>"$work/active" 2>"$work/inactive" || :
}

# guard_room has one process watch, as long as the run has snapshots, that none of them takes the
# room that a guest needs.
guard_room() {
	if [[ -z $guard ]] || ! kill -0 "$guard" 2>/dev/null; then
		xb-snap guard --owner "$run" --state-dir "$STATE_DIR" </dev/null >>"$work/given-up" 2>>"$work/guard" &
		guard=$!
	fi
}

# backup_all is a child that does all conf files. It and all its children are a process
# group of their own, so that TERM reaches every command at once.
backup_all() {
	local conf name status guard='' unread=''
	set +m # all in one process group
	run=$BASHPID
	trap 'trap "" TERM INT HUP; wait; exit 143' TERM INT HUP
	ask_this_host
	if [[ -z $dry_run ]]; then # leftovers of runs that were killed
		xb-snap prune --state-dir "$STATE_DIR" >"$work/pruned" 2>"$work/snap" || { log_file err "## " "$work/snap" && failed=1; }
		log_file info "## removed leftover snapshot " "$work/pruned"
	fi
	for conf in "$CONF_DIR"/*.conf; do
		[[ -e $conf || -L $conf ]] || die 78 "no conf file in $CONF_DIR"
		[[ -n $dry_run$final ]] || guard_room
		status=0
		backup_domu "$conf" &
		wait "$!" || status=$?
		case $status in
		"$finished") ;;
		3) failed=1 ;;
		129 | 1[3-9]?) fail 70 "$conf: its part of the run was killed: status $status" || : ;;
		*) fail 78 "$conf: it ends the script, with status $status" || : ;;
		esac
	done
	if [[ -n $guard ]]; then
		kill "$guard" 2>/dev/null || :
		wait "$guard" || :
		log_file err "## " "$work/guard"
	fi
	[[ ! -e $work/unread ]] || unread=$(paste -sd ' ' "$work/unread")
	for name in "${only[@]}"; do
		grep -qsxF -- "$name" "$work/found" ||
			fail 78 "no conf file for DomU $name${unread:+, unless it is one with a mistake, which bash -n FILE shows: $unread}" || :
	done
	exit $((failed ? 3 : 0))
}

# run waits for it, passes signals on, and clears away.
run() {
	local dir group='' stopped='' status=0
	for dir in "$RUN_DIR"/xen-backup.??????; do # of runs that were killed: nobody else has the lock
		if [[ -d $dir ]]; then leave "$dir"; fi
	done
	work=$(mktemp -d "$RUN_DIR/xen-backup.XXXXXX") || die 73 "cannot create a directory in $RUN_DIR"
	find_ssh_options
	trap 'leave "$work" 9>&-' EXIT
	trap stop TERM INT HUP
	set -m
	backup_all &
	group=$!
	set +m
	if [[ -n $stopped ]]; then stop; fi
	while wait "$group" || status=$?; kill -0 "$group" 2>/dev/null; do status=0; done
	((status < 128)) || log_mesg err "### ERROR: the run was stopped by a signal"
	log_mesg info "# end backup script $(date)"
	exit "$status"
}

stop() {
	stopped=1
	if [[ -n $group ]]; then
		kill -TERM -- "-$group" 2>/dev/null || :
		kill -CONT -- "-$group" 2>/dev/null || : # what stands still does not hear
	fi
}

misuse() { # MESSAGE
	echo "xen-backup.sh: $1; see --help" >&2 || :
	exit 64
}

main() {
	local dir level=info
	while (($#)); do
		case $1 in
		--dry-run) dry_run=1 ;;
		--verify) verify=1 ;;
		--final) final=1 ;;
		--force-diverged) force=1 ;;
		-h | --help) usage || exit 74 && exit 0 ;;
		-*) misuse "unknown option $1" ;;
		*)
			valid_name "$1" || misuse "bad name of a DomU: $1"
			only+=("$1")
			;;
		esac
		shift
	done
	if [[ -n $final && -n $force ]]; then misuse "--final and --force-diverged exclude each other"; fi
	if [[ -n $final$force ]] && ((${#only[@]} != 1)); then misuse "--final and --force-diverged need one DomU"; fi
	for dir in "$CONF_DIR" /etc/xen-backup.d /root/Works/Xen-Backup/xen-backup.d; do
		if [[ -n $dir && (-d $dir || $dir = "$CONF_DIR") ]]; then CONF_DIR=$dir && break; fi
	done
	for dir in "$STATE_DIR" "$RUN_DIR"; do # they reach a shell on the other Dom0s, and ssh
		if ! valid_name "$dir" || [[ $dir != /* ]]; then die 78 "bad name in STATE_DIR or RUN_DIR: $dir"; fi
	done
	# ssh's sockets are RUN_DIR/xen-backup.XXXXXX/%C.XXXXXXXXXXXXXXXX, and a socket's name has at most 107 bytes.
	((${#RUN_DIR} <= 31)) || die 78 "RUN_DIR has more than 31 characters, too many for ssh's sockets: $RUN_DIR"
	[[ -d $CONF_DIR ]] || die 78 "no directory of conf files: ${CONF_DIR:-/etc/xen-backup.d}"

	trap '' PIPE TTOU # whoever reads what is said, or does not: the run goes on
	log_mesg info "# Start $0 $(date)"
	# The lock is held by an open file, not by a file's existence: it can't go stale.
	exec 9>>"$RUN_DIR/xen-backup.lock" || die 73 "cannot create $RUN_DIR/xen-backup.lock"
	if ! flock -n 9; then
		[[ -z $(find "$RUN_DIR/xen-backup.lock" -mmin +1440) ]] || level=err # cron hears only of that
		log_mesg "$level" "## another process is running"
		exit 75
	fi
	touch "$RUN_DIR/xen-backup.lock"
	# Bash keeps the file for itself, closed on exec: the lock is held by all parts of the run,
	# and by no program that one of them starts and that may stay behind.
	run 9>&-
}

CONF_DIR=${CONF_DIR:-}
SNAPSHOT_SIZE=${SNAPSHOT_SIZE:-1G}
LOG_FACILITY=${LOG_FACILITY:-local3}
LOG_OPTION=${LOG_OPTION:-}
STATE_DIR=${STATE_DIR:-/var/lib/xen-backup}
RUN_DIR=${RUN_DIR:-/run}
JOBS=${JOBS:-4}
STALL=${STALL:-900}
# seconds: until a Dom0 answers, and a fourth of those until it lets us in; that a DomU stays paused, that its toolstack may take for it, and that a pause is looked for which was not granted
CONNECT_TIMEOUT=${CONNECT_TIMEOUT:-15} PAUSE_LIMIT=${PAUSE_LIMIT:-10} PAUSE_WAIT=${PAUSE_WAIT:-30} PAUSE_WATCH=${PAUSE_WATCH:-300}

dry_run='' verify='' final='' force='' work='' about='' asked='' run='' names='' wide='' only=()
declare -i failed=0 finished=99

main "$@"; exit
