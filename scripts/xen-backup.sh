#!/bin/bash
# xen-backup.sh - keep standby copies of the DomUs that run here on other Dom0s
#
# Run by cron, without arguments, on every Dom0. For each conf file it takes snapshots of the DomU's disks
# and brings the same volumes of every other Dom0 in DOM0S up to date. Drop-in for the script of 2009.
#
# All but the last lines are functions, so that bash has read all of it before the run begins: the file may
# be replaced meanwhile. Each part of a run is a child that is waited for (not the left side of "||"), so
# that "set -e" holds in it; its status is 3 if it has said what went wrong.
#
# Traps call functions, conf files are sourced, and lists of words are taken apart:
# shellcheck disable=SC2207,SC2317,SC1090,SC2086,SC2206,SC2046,SC2048,SC2116,SC2015,SC2153
if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
	echo "xen-backup.sh: needs bash 4.4 or newer, and this is $BASH_VERSION" >&2
	exit 78
fi
set -euo pipefail
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/sbin:/bin:/usr/sbin:/usr/bin

usage() {
	cat <<'END'
Usage: xen-backup.sh [--dry-run] [--verify] [--to DOM0] [--wait [SECONDS]] [DOMU...]
       xen-backup.sh --final|--force-diverged [OPTION...] DOMU
       xen-backup.sh --status [--json] [DOMU...]

Bring the standby copies of the DomUs that run on this Dom0 up to date: of all that
have a conf file in /etc/xen-backup.d, or only those named. The README explains the
settings, which are in conf files and in the environment.

  --dry-run         change nothing; say what would be done
  --verify          compare each copy with its source afterwards
  --to DOM0         only the copies on this Dom0
  --wait [SECONDS]  wait for a run that is at work
  --final           last copy before a planned move: the DomU must be shut off
                    everywhere, and is read without a snapshot
  --force-diverged  overwrite copies whose changes exist nowhere else, as after a
                    failover the image that the dead Dom0 came back with
  --status          tell what is copied, and how old it is
  -h, --help        show this help

Exit status: 0 done or nothing to do, 3 at least one DomU or Dom0 failed, 64 usage,
73 cannot write to RUN_DIR, 75 another run is at work, 78 configuration or bash, 143
stopped by a signal. --status: 0 all copies are younger than MAX_AGE, 1 one is
older, 2 one fails, is missing or twice as old, 3 cannot tell.
END
}

# --- messages and parts -------------------------------------------------------

log_mesg() { # LEVEL MESSAGE: to syslog; to a terminal; and to cron's mail what is no info
	local -A priority=([err]=3 [warning]=4 [info]=6)
	local text=${*:2}
	text=${text//[[:space:]]/ }
	text="<${priority[$1]}>${text//[^[:print:]]/?}"
	if [[ -p $work/log ]]; then
		echo "$text" 1<>"$work/log"
	elif [[ -z $status ]]; then
		to_syslog <<<"$text"
	fi
	! is_for_mail "$text" || printf '%s%s\n' "$erase" "${text:3}" >&2 || :
}

is_for_mail() { [[ $1 != '<6>'* || -n $dry_run$erase ]]; } # erase: it is a terminal

to_syslog() { # takes lines with a priority; what syslog does not take is for the mail
	local line
	logger --socket-errors=on --prio-prefix -t "xen-backup.sh[$$]" -p "$LOG_FACILITY.info" $LOG_OPTION 2>/dev/null ||
		while IFS= read -r line; do is_for_mail "$line" || printf '%s\n' "${line:3}" >&2; done
}

# log_file tells what a command said, each line with a level of its own or with this one. What has failed
# although the command went on counts, too.
log_file() { # LEVEL PREFIX FILE
	local line level
	while IFS= read -r line || [[ -n $line ]]; do
		level=$1
		case $line in 'info '* | 'warning '* | 'err '*) level=${line%% *} line=${line#* } ;; esac
		log_mesg "$level" "$2${line%$'\r'}"
		[[ $level != err ]] || failed=1
	done <"$3"
}

die() { # STATUS MESSAGE
	log_mesg err "$2"
	exit "$1"
}

fail() { # STATUS MESSAGE: this part is lost, the others go on
	failed=1
	if [[ -z $about ]]; then log_mesg err "### ERROR $1: $2"; else record '' other "$1" <<<"$2" || :; fi
	return 3
}

# record has xb-patch remember how a step ended, and find the cause and the words for it: of several
# statuses, and of all that was said, which is on standard input.
record() { # SOURCE STEP STATUSES [OPTION...]
	local code=0 said=$work/record.$BASHPID
	xb-patch --record ${1:+"$1"} --disk "$DOMU${1:+/$disk}" --peer "${dom0:--}" --step "$2" --stages "$3" \
		${dry_run:+--dry-run} ${taken:+--taken "$taken"} "${@:4}" >"$said" 2>&1 || code=$?
	log_file err '' "$said"
	((code == 0)) || return 3
}

await() { # PROCESS NAME: of a part
	local code=0
	wait "$1" || code=$?
	((code)) || return 0
	((code == 3)) || fail 70 "$2: it broke off with status $code" || :
	failed=1
	return 3
}

at_most() { # NUMBER: waits until fewer parts are at work
	local running
	while running=($(jobs -pr)) && ((${#running[@]} >= $1)); do wait -n || :; done
}

# pause waits without a program that would outlive this one. It fails when the run's directory is gone.
pause() { # SECONDS
	read -rt "$1" <>"$work/never" || [[ -p $work/never ]]
} 2>/dev/null

hook() { # SETTING STATUS: runs a command of the administrator's
	local code=0 said=$work/hook.$BASHPID
	[[ -n ${!1:-} && -z $dry_run ]] || return 0
	DOMU=${DOMU:-} STATUS=$2 PEER=${remotes[*]} timeout --foreground -k 5 "$HOOK_TIMEOUT" bash -c "${!1}" \
		</dev/null >"$said" 2>&1 || code=$?
	log_file "$( ((code)) && echo err || echo info)" "## ${about:+$about: }$1: " "$said"
	((code == 0)) || fail 69 "$1 ended with status $code"
}

ping_url() { # WORD: never makes a run fail
	[[ -z ${PING_URL:-} || -n $dry_run ]] || curl -fsS -m 10 --retry 2 -o /dev/null "$PING_URL$1" 2>"$work/ping" ||
		log_file info "## PING_URL: " "$work/ping"
}

# --- conf files ---------------------------------------------------------------

check_settings() { # CONF: refuses what would else be found out late, or never
	local setting value
	[[ $DOMU =~ ^$word$ ]] || fail 78 "$1: bad or missing name in DOMU: '$DOMU'"
	# virsh and xl would take it for the number of a domain, perhaps of another one.
	[[ $DOMU = *[!0-9]* ]] || fail 78 "$1: a DomU whose name is a number cannot be told from others: $DOMU"
	[[ -n $DOM0S ]] || fail 78 "$1: DOM0S names no Dom0"
	for setting in "${!form[@]}"; do
		for value in ${!setting}; do
			[[ $value =~ ^(${form[$setting]})$ ]] || fail 78 "$1: bad $setting: $value"
		done
	done
	[[ -z $BLOCK_SIZE ]] || xb-sig -b "$BLOCK_SIZE" --missing-ok "$work/none" >/dev/null 2>&1 ||
		fail 78 "$1: bad BLOCK_SIZE: $BLOCK_SIZE"
}

# check_names finds names that a conf file has set to no effect; what is exported is for a program.
check_names() { # CONF NAMES-BEFORE
	local setting text known=" $2 ${settings[*]} CDPATH COPROC COPROC_PID GLOBIGNORE MAPFILE OLDPWD OPTARG REPLY TIMEFORMAT TMOUT "
	text=$(<"$1")
	for setting in $(compgen -v); do
		if [[ $setting =~ ^[A-Z][A-Z0-9_]*$ && $setting != BASH* && ! $known =~ [[:space:]]${setting}[[:space:]] &&
			! $(declare -p "$setting") =~ ^declare\ -[^\ ]*x && ! $text =~ (^|[^A-Za-z0-9_])${setting}([^A-Za-z0-9_=+]|$) ]]; then
			log_mesg warning "## $1: $setting is no setting, and nothing uses it"
		fi
	done
}

# read_conf is a child that sources a conf file and writes its settings to another one.
read_conf() { # CONF FILE
	local conf=$1 file=$2 names setting
	names=$(compgen -v)
	readonly "${run_wide[@]}"
	set +eu # as the script of 2009 did
	# The file may use the names of this script for something of its own.
	eval '. "$conf" 2>"$file.said";' "$(declare -p IFS conf file names settings form word work only about status dry_run erase failed)"
	set -euf +C # no names of files in lists
	DOMU=${DOMU:-} DOM0S=$(echo ${DOM0S[*]:-}) MAP=$(echo ${MAP[*]:-}) EXCLUDE=$(echo ${EXCLUDE[*]:-})
	# "MAP = ..." and a list without quotes are commands that are not found, and no MAP.
	if ((${#only[@]} == 0)) || [[ " ${only[*]} " = *" $DOMU "* ]]; then
		[[ $(<"$file.said") != *"$conf: line "* ]] || exit 78
		log_file warning "## $conf: " "$file.said"
		for setting in "${settings[@]}"; do printf -v "$setting" %s "${!setting:-}"; done
		check_names "$conf" "$names"
		check_settings "$conf"
		for setting in "${settings[@]}"; do printf '%s=%q\n' "$setting" "${!setting}"; done >"$file"
	elif [[ $(<"$file.said") = *"$conf: line "* ]]; then
		exit 4 # perhaps it is the one that is asked for
	else
		: >"$file"
	fi
}

# read_confs sets domus, by the numbers of their conf files.
read_confs() {
	local conf code n=0 domu unread=''
	for conf in "$CONF_DIR"/*.conf; do
		[[ -e $conf || -L $conf ]] || die 78 "no conf file in $CONF_DIR"
		n=$((n + 1)) code=0
		read_conf "$conf" "$work/$n" &
		wait "$!" || code=$?
		[[ ! -s $work/$n ]] || IFS='=' read -r _ 'domus[n]' <"$work/$n"
		case $code in
		3) failed=1 ;;
		4) unread+=" $conf" ;;
		*)
			[[ ! -e $work/$n ]] || continue
			log_file err "## " "$work/$n.said"
			fail 78 "$conf: not a file of shell variables, or it sets what is for the whole run, or it ends the script" || :
			;;
		esac
	done
	for domu in "${only[@]}"; do
		[[ " ${domus[*]} " = *" $domu "* ]] ||
			fail 78 "no conf file for DomU $domu${unread:+, unless it is one with a mistake, which bash -n FILE shows:$unread}" || :
	done
}

# --- one Dom0 -----------------------------------------------------------------

# connect opens the one connection to each Dom0 that all commands share. Who is dead is found out here, once.
connect() { # DOM0...
	local dom0 till=$((SECONDS + 4 * CONNECT_TIMEOUT))
	local -A master
	for dom0; do
		socket[$dom0]=$work/ssh.${#socket[@]}
		ssh "${ssh_options[@]}" -o "ControlPath=${socket[$dom0]}" -M -N "$dom0" </dev/null >/dev/null 2>"$work/ssh.$dom0.said" &
		master[$dom0]=$!
		echo "$!" >>"$work/masters"
		disown # no part that is waited for
	done
	for dom0; do
		while [[ ! -S ${socket[$dom0]} ]] && kill -0 "${master[$dom0]}" 2>/dev/null && ((SECONDS < till)); do pause 0.1; done
		[[ ! -S ${socket[$dom0]} ]] || continue
		((SECONDS < till)) || echo "it lets nobody log in within $((4 * CONNECT_TIMEOUT)) s" >>"$work/ssh.$dom0.said"
		: >"$work/dead.$dom0"
	done
}

# at makes a part of the run one for a Dom0, or for a disk there. Its files are $t.WHAT.
at() { # DOM0 [DISK]
	dom0=$1 disk=${2:-} place=$1 t=$work/$n.$1${2:+.$2} failed=0 source='' there=(ssh "${ssh_options[@]}" -o "ControlPath=${socket[$1]}" "$1")
	# When the master has ended, ssh would call anew a Dom0 that is dead, each time.
	[[ -S ${socket[$1]} ]] || : >"$work/dead.$1"
	[[ -n $disk ]] || return 0
	IFS=$'\t' read -r _ _ target _ source size sector owner mode uuid _ <<<"${row[$1 $2]}"
	place=$1:$target progress="$work/progress $DOMU $disk to $1" snapshot=${snapshots[$disk]:-$source}
	patch_options=(--heartbeat --peer "$local_dom0" --disk "$DOMU/$disk" --sector-size "$sector" ${TOOLSTACK:+--toolstack "$TOOLSTACK"}
		${CREATE_LV:+--create-lv "$CREATE_LV"} ${FIRST_COPY:+--first-copy "$FIRST_COPY"} ${force:+--force-diverged})
	[[ $uuid = - ]] || patch_options+=(--uuid "$uuid")
	[[ ! -e $t.prepared ]] || . "$t.prepared"
}

# watch ends the stages of a part when none of them has told of progress for so long.
watch() { # SECONDS PARENT: of the stages
	local line pid parent since=$SECONDS told=$SECONDS
	exec 3<"$t.said" 4<"$t.answer"
	while pause 1 && ((SECONDS - since < $1)); do
		kill -0 "$2" 2>/dev/null || exit 0
		while read -ru 3 line || read -ru 4 line; do [[ $line != progress ]] || since=$SECONDS; done
		if ((SECONDS - told >= 600)) && read -r line 2>/dev/null <"$progress"; then
			log_mesg info "#### $place: $line"
			told=$SECONDS
		fi
	done
	: >"$t.stalled"
	while read -r pid; do # of one that has ended the number may be somebody else's
		read -r _ _ _ parent _ 2>/dev/null <"/proc/$pid/stat" && [[ $parent = "$2" ]] || continue
		kill "$pid" 2>/dev/null || :
		kill -CONT "$pid" 2>/dev/null || :
	done <"$t.pids"
}

stage() { # PROGRAM...: one of a pipeline that is watched
	echo "$BASHPID" >>"$t.pids"
	exec "$@" 2>>"$t.said"
}

# watched runs a pipeline. Its statuses are in stages then, and what was said in $t.said and $t.answer.
watched() { # SECONDS FUNCTION ARGUMENT...
	local watcher parent=$BASHPID
	stages=(0) stalled=''
	: >"$t.pids"
	: >"$t.answer"
	: >"$t.said"
	watch "$1" "$parent" &
	watcher=$!
	"${@:2}"
	kill "$watcher" 2>/dev/null || :
	wait "$watcher" || :
	[[ -e $t.stalled ]] || return 0
	stalled=$1
	# A connection whose link was cut looks open for minutes: nobody else shall wait for it.
	timeout $((4 * CONNECT_TIMEOUT)) "${there[@]}" xb-patch --version </dev/null >/dev/null 2>&1 || : >"$work/dead.$dom0"
}

at_dom0() { # PROGRAM ARGUMENT...: that has the standard input of this part
	{ (stage "${there[@]}" "$@" >>"$t.answer") || stages=("$?"); } 2>/dev/null # this shell's word on one that is killed
}

ended() { # STEP [OPTION...]: records how the stages of this part ended
	[[ ${stages[*]} != *[1-9]* ]] || echo "$(<"$t.answer")" >>"$t.said" # where a login shell speaks
	record "$source" "$1" "${stages[*]}" ${stalled:+--stalled "$stalled"} ${source:+--target "$target"} ${last:+--last "$last"} \
		"${@:2}" <"$t.said"
}

# prepare is a child that asks a Dom0 whether the DomU is active there, too; and before there is a snapshot
# has it look at its standbys, and finish what was interrupted there.
prepare() { # DOM0
	local line lost=''
	at "$1"
	if [[ -e $work/dead.$1 ]]; then
		is_wanted || exit 0
		record '' connect 255 <"$work/ssh.$1.said"
	fi
	watched 150 at_dom0 xb-locate --active ${TOOLSTACK:+--toolstack "$TOOLSTACK"} "$DOMU"
	case ${stages[0]}:$(<"$t.answer") in
	0:no) ;;
	0:yes) : >"$work/$n.twice" && stages=(81) ;;
	0:*) stages=(76) ;; # a shell that does nothing, or says more
	esac
	is_wanted || ((stages == 81)) || exit 0
	((stages == 0)) || ended ask
	for disk in "${disks[@]}"; do
		at "$1" "$disk"
		watched "$STALL" at_dom0 xb-patch --prepare "${patch_options[@]}" --size "$size" "${hash[@]}" ${dry_run:+--dry-run} "$target"
		while read -r line; do
			[[ $line =~ ^(full|tracked)( .*)?$ ]] || continue
			[[ ! "$line " =~ \ last=([^ ]+) ]] && : >"$t.prepared" || echo "last=${BASH_REMATCH[1]}" >"$t.prepared"
			[[ "$line " != *' finished=yes '* ]] || log_mesg info "### remote Dom0 $1: finished the interrupted apply on $target"
			[[ "$line " != *' guests=yes '* || $BACKGROUND = no || -n $final ]] || echo 'background=--background' >>"$t.prepared"
		done <"$t.answer"
		((stages)) || [[ -e $t.prepared ]] || stages=(76)
		if [[ ${stages[*]} != 0 || -s $t.said ]]; then ended prepare || lost+=" $disk"; fi
		[[ -z $dry_run || ! -e $t.prepared ]] || log_mesg info "### would sync $DOMU from $local_dom0 to $dom0: $source to $target"
		[[ ! -e $work/dead.$1 ]] || break
	done
	[[ -z $lost ]] || tell_when "failed:$lost; "
}

is_wanted() { [[ -z $to || $dom0 = "$to" ]]; }

copy() {
	local into=(${set:+--hold "$set" --taken "$taken"})
	[[ $owner = - ]] || into+=(--owner "$owner")
	[[ $mode = - ]] || into+=(--mode "$mode")
	stages=(0 0 0)
	stage "${there[@]}" xb-sig --heartbeat --missing-ok $background "${hash[@]}" "$target" </dev/null |
		stage xb-delta --heartbeat "${reading[@]}" ${BWLIMIT:+--bwlimit "$BWLIMIT"} --progress-file "$progress" \
			--summary "$t.summary" "$snapshot" |
		stage "${there[@]}" xb-patch --auto "${patch_options[@]}" $background "${into[@]}" "$target" >>"$t.answer" ||
		stages=("${PIPESTATUS[@]}")
	: >"$progress"
}

compare() {
	stages=(0 0)
	stage "${there[@]}" xb-sig --heartbeat $background "${hash[@]}" "$target" </dev/null |
		stage xb-delta --heartbeat "${reading[@]}" --check "$snapshot" >>"$t.answer" || stages=("${PIPESTATUS[@]}")
}

# copy_disk is a child that brings one standby up to date. Of a DomU of several the new image is only held there.
copy_disk() { # DOM0 DISK
	at "$1" "$2"
	if [[ -e $work/dead.$1 ]]; then
		record '' connect 255 <"$work/ssh.$1.said" || exit 3
	fi
	log_mesg info "### sync $DOMU from $local_dom0 to $dom0: $source to $target"
	watched "$STALL" copy
	[[ -n $set && ${stages[*]} = '0 0 0' ]] || ended copy --sent "$t.summary" ${final:+--final}
}

# finish_disk is a child that remembers what came in a set, and compares a copy with its source.
finish_disk() { # DOM0 DISK
	at "$1" "$2"
	stages=(0 0 0)
	[[ -z $set ]] || ended copy --sent "$t.summary" ${final:+--final} --set "$set"
	[[ -n $verify ]] || return 0
	watched "$STALL" compare
	ended verify
	log_mesg info "#### $place: verified, $(<"$t.answer")"
}

# tell_when ends a part whose Dom0 keeps an older standby of several disks, or none: it says of when that is.
tell_when() { # WORDS
	if ((${#disks[@]} > 1)) && [[ -z $dry_run ]]; then
		at "$dom0"
		[[ -e $work/dead.$dom0 ]] || watched 150 at_dom0 xb-patch --list --when "${disks[@]/#/$DOMU/}"
		[[ ! -e $work/dead.$dom0 ]] || echo "cannot be asked of when it is" >"$t.answer"
		log_mesg err "### $about: ${1:-}its standby on $dom0 $(<"$t.answer")"
	fi
	exit 3
}

# copy_to is a child that brings one Dom0 up to date: every disk, and when all are there the document by
# which the DomU starts from them. The disks of a DomU of several become the new ones together, or none does.
copy_to() { # DOM0
	local parts=() lost='' all=() store=(--words)
	((${#disks[@]} == 1)) || new_set
	for disk in "${disks[@]}"; do
		at_most "$share"
		copy_disk "$1" "$disk" &
		parts+=("$!")
		at "$1" "$disk"
		all+=("$target")
		[[ $target = "$source" ]] || store+=(--map "$source=$target")
	done
	for disk in "${disks[@]}"; do
		await "${parts[0]}" "disk $disk to $1" || lost+=" $disk"
		parts=("${parts[@]:1}")
	done
	at "$1"
	[[ -z $lost ]] || tell_when "failed:$lost; "
	if [[ -n $set ]]; then
		log_mesg info "### commit $DOMU on $dom0: ${disks[*]}, of $taken"
		watched "$STALL" at_dom0 xb-patch --commit "$set" --peer "$local_dom0" --heartbeat "${all[@]}"
		ended commit --set "$set" || tell_when
		store+=(--set "$set" --taken "$taken")
	fi
	for disk in "${disks[@]}"; do
		finish_disk "$1" "$disk" &
		await "$!" "disk $disk on $1" || :
	done
	for disk in $EXCLUDE; do store+=(--drop "$disk"); done
	if [[ -s $work/$n.bundle ]]; then
		watched 300 at_dom0 xb-locate --store "$DOMU" "${store[@]}" <"$work/$n.bundle"
		if ((stages)); then ended document; else log_file warning "## remote Dom0 $dom0: " "$t.said"; fi
	fi
	exit $((failed ? 3 : 0))
}

new_set() { # a name of a set is 26 of a-z and 2-7
	local i
	read -r set </proc/sys/kernel/random/uuid
	set=${set//-/} set=${set:0:26}
	for i in 0g 1h 8i 9j; do set=${set//${i:0:1}/${i:1}}; done
}

# --- one DomU -----------------------------------------------------------------

skip() { # REASON: the DomU is not copied; an error if it was asked for by name
	local level=info
	((${#only[@]} == 0)) || level=err failed=1
	log_mesg "$level" "## SKIP: DomU $DOMU is not running on this host: $1"
	exit $((failed ? 3 : 0))
}

here() { # STEP OUTPUT PROGRAM ARGUMENT...: runs it on this host for the DomU, and records it if it fails
	local code=0
	"${@:3}" >"$2" 2>"$work/$n.said" || code=$?
	if ((code == 1)); then skip "$(<"$work/$n.said")"; fi
	((code == 0)) || record '' "$1" "$code" <"$work/$n.said"
	log_file warning "## $about: " "$work/$n.said"
}

# locate finds the disks, the document, and the names of all standbys.
locate() {
	local line d exclude=() more=(${XL_CONFIG:+--xl-config "$XL_CONFIG"} ${final:+--final} "${local_name[@]}")
	for d in $EXCLUDE; do exclude+=(--exclude "$d"); done
	[[ -n $dry_run ]] || more+=(--document-file "${XML_DIR:-$CONF_DIR}/$DOMU")
	still=(xb-locate --words "${toolstack[@]}" "${exclude[@]}" --still "$work/$n.note" "$DOMU")
	here locate "$work/$n.rows" xb-locate --copy --words "${toolstack[@]}" "${exclude[@]}" --note "$work/$n.note" \
		--bundle "$work/$n.bundle" --dom0s "$DOM0S" --rules "$MAP" "${more[@]}" "$DOMU"
	while IFS= read -r line; do
		IFS=$'\t' read -r local_dom0 dom0 _ d source _ <<<"$line"
		row[$dom0 $d]=$line
		[[ " ${remotes[*]} " = *" $dom0 "* ]] || remotes+=("$dom0")
		[[ $dom0 != "${remotes[0]}" ]] || disks+=("$d") sources+=("$source")
	done <"$work/$n.rows"
	dom0=''
	((${#disks[@]})) || fail 78 "it has no disk to copy, or EXCLUDE names them all: $EXCLUDE"
}

# each runs a part for each of the Dom0s that are left, and leaves those where all is well.
each() { # FUNCTION
	local peer parts=() good=()
	for peer in "${left[@]}"; do
		at_most "$JOBS"
		"$1" "$peer" &
		parts+=("$!")
	done
	for peer in "${left[@]}"; do
		! await "${parts[0]}" "remote Dom0 $peer" || good+=("$peer")
		parts=("${parts[@]:1}")
	done
	left=("${good[@]}")
}

take_snapshots() {
	local d path size how=()
	case $PAUSE in auto) how=(--pause "$DOMU" "${toolstack[@]}") ;; freeze*) how=("--$PAUSE" "$DOMU" "${toolstack[@]}") ;; esac
	hooked=1
	hook PRE_SNAPSHOT 0
	here snapshot "$work/$n.snapshots" xb-snap create --words -v --uri --owner "$run" --size "$SNAPSHOT_SIZE" \
		"${how[@]}" ${dry_run:+--dry-run} "${sources[@]}"
	hooked=''
	hook POST_SNAPSHOT 0
	[[ -z $dry_run ]] || return 0
	for d in "${!disks[@]}"; do
		read -r path
		size=''
		[[ $path != /dev/* ]] || size=" with size $SNAPSHOT_SIZE"
		log_mesg info "### local Dom0 $local_dom0: take snapshot ${path##*/} for ${sources[d]}$size"
		snapshots[${disks[d]}]=$path
	done <"$work/$n.snapshots"
	here still /dev/null "${still[@]}"
}

leave_domu() { # STATUS: whatever happened, nothing stays behind
	local code=$1 snaps=()
	trap '' TERM INT HUP
	[[ -z $hooked ]] || hook POST_SNAPSHOT 3 || code=3
	mapfile -t snaps <"$work/$n.snapshots"
	if ((${#snaps[@]})) && [[ -z $dry_run ]]; then
		set -m # a process group of its own, which no second signal to this run reaches
		xb-snap remove --words "${snaps[@]}" </dev/null 2>"$work/$n.said" &
		wait "$!" || code=3
		set +m
		log_file err "## $about: " "$work/$n.said"
	fi
	hook POST_DOMU "$code" || code=3
	exit "$code"
}

# backup_domu is a child that does one conf file; what the file sets is gone afterwards.
backup_domu() { # NUMBER
	n=$1 failed=0
	. "$work/$n"
	about="DomU $DOMU" hash=(-b "${BLOCK_SIZE:-4K}" --hash "${HASH:-xxh64}") reading=(${READ_LIMIT:+--read-limit "$READ_LIMIT"})
	log_mesg info "## checking DomU $DOMU"
	[[ -n $final || ${active[n]} != no ]] || unknown
	echo "$$ $began $DOMU" >"$RUN_DIR/xen-backup.lock"
	: >"$work/$n.snapshots"
	trap 'leave_domu "$?"' EXIT
	trap 'exit 143' TERM INT HUP
	locate
	log_mesg info "## BACKUP: DomU $DOMU to remote Dom0(s): [${remotes[*]}]"
	[[ $BACKGROUND = no || -n $final ]] || reading+=(--background)
	left=("${remotes[@]}")
	each prepare
	[[ ! -e $work/$n.twice ]] || exit 3
	[[ -z $to ]] || left=($([[ " ${left[*]} " != *" $to "* ]] || echo "$to"))
	((${#left[@]})) || exit $((failed ? 3 : 0))
	TZ=UTC printf -v taken '%(%FT%TZ)T' -1
	[[ -n $final ]] || take_snapshots
	[[ -z $dry_run ]] || exit $((failed ? 3 : 0))
	[[ -z $final ]] || JOBS=1 # what is no snapshot must have but one reader
	share=$((JOBS / ${#left[@]}))
	((share <= 5 / DOMUS_AT_ONCE)) || share=$((5 / DOMUS_AT_ONCE)) # a copy takes two sessions, and sshd gives ten
	[[ -z $BWLIMIT ]] && ((share)) || share=1
	each copy_to
	exit $((failed ? 3 : 0))
}

# unknown is for a DomU that does not run here. If no Dom0 knows it, and it was never copied, its conf file must
# mean another one. If one cannot be asked it is not.
unknown() {
	local is_known=${known[n]}
	for dom0 in ${others[n]#-}; do
		[[ $is_known = no ]] || break
		at "$dom0"
		[[ -e $work/dead.$dom0 ]] || watched 60 at_dom0 xb-locate --known ${TOOLSTACK:+--toolstack "$TOOLSTACK"} "$DOMU"
		[[ ! -e $work/dead.$dom0 && $(<"$t.answer") = no ]] || is_known=maybe
	done
	dom0=''
	[[ $is_known != no ]] || fail 78 "no Dom0 knows a DomU of that name, and it was never copied: is DOMU right in its conf file?"
	skip "${reason[n]}"
}

# --- the run ------------------------------------------------------------------

list_domus() { # for xb-locate --plan
	local i
	for i in "${!domus[@]}"; do (. "$work/$i" && printf '%s\t%s\t%s\n' "$DOMU" "$DOM0S" "$EXCLUDE"); done
}

# show_progress is for a terminal: the copies that are under way, in its last line.
show_progress() {
	local file line text
	while pause 1; do
		text=''
		for file in "$work/progress "*; do
			! read -r line 2>/dev/null <"$file" || text+="${text:+ | }${file#*/progress }: $line"
		done
		[[ -z $text ]] || printf '%s\e[?7l%s\e[?7h' "$erase" "$text" >&2
	done
}

# guard_room has one process watch, as long as the run has snapshots, that none of them takes the room that a
# guest needs.
guard_room() {
	! kill -0 "$guard" 2>/dev/null || return 0
	xb-snap guard --owner "$run" </dev/null >>"$work/given-up" 2>>"$work/guard" &
	guard=$!
	disown
}

# backup_all is a child that does all conf files. It and all its children are a process group of their own, so
# that TERM reaches every command at once.
backup_all() {
	local i domu peer guard=none shown='' parts=()
	local -A numbers=() wanted=()
	set +m # all in one process group
	run=$BASHPID
	trap 'trap "" TERM INT HUP; wait; exit 143' TERM INT HUP
	read_confs
	((${#domus[@]})) || exit $((failed ? 3 : 0))
	if [[ -n $status ]]; then
		list_domus | xb-locate --plan --disks "${toolstack[@]}" "${local_name[@]}" |
			xb-patch --list --expected - --max-age "$MAX_AGE" $json
		exit $((failed ? 3 : 0))
	fi
	list_domus | xb-locate --plan --words "${toolstack[@]}" "${local_name[@]}" >"$work/plan" 2>"$work/plan.said" || failed=1
	log_file err "## " "$work/plan.said"
	for i in "${!domus[@]}"; do
		IFS=$'\t' read -r _ 'active[i]' 'known[i]' 'others[i]' 'reason[i]'
		numbers[${domus[i]}]+=" $i"
		[[ ! -e ${XML_DIR:-$CONF_DIR}/${domus[i]}.xml && ! -e ${XML_DIR:-$CONF_DIR}/${domus[i]}.cfg ]] || known[i]=yes
		[[ ${active[i]} = no && ${known[i]} != no && -z $final ]] || for peer in ${others[i]#-}; do wanted[$peer]=1; done
	done <"$work/plan"
	connect "${!wanted[@]}"
	if [[ -z $dry_run ]]; then # leftovers of runs that were killed
		xb-snap prune --words >"$work/pruned" 2>"$work/prune" || failed=1
		log_file err "## " "$work/prune"
		log_file info "## removed leftover snapshot " "$work/pruned"
	fi
	if [[ -n $erase ]]; then
		show_progress &
		shown=$!
		disown # no part that is waited for
	fi
	((${#numbers[@]} == 1)) || mapfile -t domus < <(xb-patch --list --order "${!numbers[@]}")
	for domu in "${domus[@]}"; do
		for i in ${numbers[$domu]}; do
			[[ -n $dry_run$final || ${active[i]} = no ]] || guard_room
			at_most "$DOMUS_AT_ONCE"
			backup_domu "$i" &
			parts+=("$!")
		done
	done
	for i in "${parts[@]}"; do await "$i" "a DomU" || :; done
	[[ -z $shown ]] || kill "$shown" || : # it holds the lock, too
	kill "$guard" 2>/dev/null || :
	while kill -0 "$guard" 2>/dev/null; do pause 0.1; done
	[[ ! -e $work/guard ]] || log_file err "## " "$work/guard"
	if [[ -z $dry_run ]]; then
		xb-patch --list --since "$began" ${METRICS:+--metrics "$METRICS"} >"$work/summary" 2>&1 || failed=1
		log_file "$( ((failed)) && echo warning || echo info)" "# " "$work/summary"
		hook POST_RUN $((failed ? 3 : 0)) || :
	fi
	exit $((failed ? 3 : 0))
}

# leave ends the connections that were opened under a work directory, and removes it.
leave() { # DIRECTORY
	local pid words
	if [[ -f $1/masters ]]; then
		while read -r pid; do
			mapfile -td '' words <"/proc/$pid/cmdline" && [[ ${words[*]} = *"ControlPath=$1/"* ]] || continue
			kill -KILL "$pid" || :
		done <"$1/masters" 2>/dev/null
	fi
	rm -rf "$1"
}

# run waits for it, passes signals on, and clears away.
run() {
	local dir group='' stopped='' code=0 keep logger
	for dir in "$RUN_DIR"/xen-backup.[0-9]*; do # of runs that were killed
		[[ ! -d $dir || -d /proc/${dir##*.} ]] || leave "$dir"
	done
	work=$RUN_DIR/xen-backup.$$
	mkdir -m 700 "$work" || die 73 "cannot create a directory in $RUN_DIR"
	trap 'leave "$work"' EXIT
	mkfifo "$work/log" "$work/never"
	exec {keep}<>"$work/log"
	(trap '' TERM INT HUP && to_syslog) <"$work/log" {keep}>&- &
	logger=$!
	if [[ -z $status ]]; then
		log_mesg info "# Start $0 $(now)"
		ping_url /start
	fi
	trap stop TERM INT HUP
	set -m
	backup_all </dev/null {keep}>&- & # who reads a terminal in the background is stopped
	group=$!
	set +m
	if [[ -n $stopped ]]; then stop; fi
	while wait "$group" || code=$?; kill -0 "$group" 2>/dev/null; do code=0; done
	((code < 128)) || log_mesg err "### ERROR: the run was stopped by a signal"
	if [[ -z $status ]]; then
		ping_url "$( ((code == 0)) || echo /fail)"
		log_mesg info "# end backup script $(now)"
	fi
	exec {keep}>&-
	wait "$logger" || :
	exit "$code"
}

now() { printf '%(%a %b %e %T %Z %Y)T' -1; }

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

# lock takes the lock. It is held by an open file, not by a file's existence: it can't go stale.
lock() {
	local pid='' since='' domu='' level=info
	exec 9>>"$RUN_DIR/xen-backup.lock" || die 73 "cannot create $RUN_DIR/xen-backup.lock"
	if ! flock "${waiting[@]}" 9; then
		read -r pid since domu <"$RUN_DIR/xen-backup.lock" || :
		((${since:-$began} > began - 86400)) || level=err # cron hears only of that
		log_mesg info "# Start $0 $(now)"
		log_mesg "$level" "## another process is running${pid:+: $pid, since $(printf '%(%F %T)T' "$since")${domu:+, at DomU $domu}}"
		exit 75
	fi
	printf -v began '%(%s)T' -1
	echo "$$ $began" >"$RUN_DIR/xen-backup.lock"
}

main() {
	local dir
	while (($#)); do
		case $1 in
		--dry-run) dry_run=1 ;;
		--verify) verify=1 ;;
		--final) final=1 ;;
		--force-diverged) force=1 ;;
		--to) to=${2:-} && [[ $to =~ ^$word$ ]] && shift || misuse "--to needs the name of a Dom0" ;;
		--wait) waiting=() && [[ ! ${2:-} =~ ^[0-9]+$ ]] || { waiting=(-w "$2") && shift; } ;;
		--status) status=1 ;;
		--json) json=--json ;;
		-h | --help) usage || exit 74 && exit 0 ;;
		-*) misuse "unknown option $1" ;;
		*) [[ $1 =~ ^$word$ ]] && only+=("$1") || misuse "bad name of a DomU: $1" ;;
		esac
		shift
	done
	if [[ -n $final && -n $force ]]; then misuse "--final and --force-diverged exclude each other"; fi
	if [[ -n $final$force ]] && ((${#only[@]} != 1)); then misuse "--final and --force-diverged need one DomU"; fi
	if [[ -n $status$json && ($status != 1 || -n $dry_run$verify$final$force$to) ]]; then misuse "--status goes with --json alone"; fi
	for dir in "$CONF_DIR" /etc/xen-backup.d /root/Works/Xen-Backup/xen-backup.d; do
		if [[ -n $dir && (-d $dir || $dir = "$CONF_DIR") ]]; then CONF_DIR=$dir && break; fi
	done
	[[ -d $CONF_DIR ]] || die 78 "no directory of conf files: ${CONF_DIR:-/etc/xen-backup.d}"
	[[ -z ${STATE_DIR:-}${SPOOL_DIR:-} ]] || die 78 "STATE_DIR, SPOOL_DIR: set them in /etc/xen-backup/host.conf of the host that they are for"
	[[ $RUN_DIR =~ ^/[A-Za-z0-9_/.+:@-]*$ ]] || die 78 "bad name in RUN_DIR: $RUN_DIR"
	# ssh's sockets are RUN_DIR/xen-backup.PID/ssh.N.XXXXXXXXXXXXXXXX, and a socket's name has at most 107 bytes.
	((${#RUN_DIR} <= 31)) || die 78 "RUN_DIR has more than 31 characters, too many for ssh's sockets: $RUN_DIR"
	for dir in JOBS DOMUS_AT_ONCE; do [[ ${!dir} =~ ^[1-9][0-9]{0,3}$ ]] || die 78 "bad $dir: ${!dir}"; done
	trap '' PIPE TTOU # whoever reads what is said, or does not: the run goes on
	# Bash keeps the file for itself, closed on exec: the lock is held by all parts of the run, and by no program that
	# one of them starts and that may stay behind.
	[[ -n $status ]] || lock
	run 9>&-
}

CONF_DIR=${CONF_DIR:-} SNAPSHOT_SIZE=${SNAPSHOT_SIZE:-1G} STALL=${STALL:-900} HOOK_TIMEOUT=${HOOK_TIMEOUT:-60}
JOBS=${JOBS:-4} DOMUS_AT_ONCE=${DOMUS_AT_ONCE:-1} MAX_AGE=${MAX_AGE:-26h} RUN_DIR=${RUN_DIR:-/run}
LOG_FACILITY=${LOG_FACILITY:-local3} LOG_OPTION=${LOG_OPTION:-}
CONNECT_TIMEOUT=${CONNECT_TIMEOUT:-15} # seconds until a Dom0 answers, and a fourth of those until it lets us in
# No setting of ssh_config may put another command in place of ours or take its input away; not every ssh knows all
# of them. gcm takes a third fewer cycles than ssh's first choice.
ssh_options=(-T -o BatchMode=yes -o "ConnectTimeout=$CONNECT_TIMEOUT" -o ServerAliveInterval=10 -o ServerAliveCountMax=30
	-o 'IgnoreUnknown=*' -o RemoteCommand=none -o StdinNull=no -o ForkAfterAuthentication=no
	-o 'Ciphers=^aes128-gcm@openssh.com,aes256-gcm@openssh.com')
local_name=(${LOCAL_DOM0:+--local "$LOCAL_DOM0"})
toolstack=(${VIRSH_URI:+--connect "$VIRSH_URI"} ${TOOLSTACK:+--toolstack "$TOOLSTACK"})

# What a conf file may set, DOMU first; what the words of those look like that mean something to a program; and what
# is for the whole run.
settings=(DOMU DOM0S SNAPSHOT_SIZE EXCLUDE MAP BWLIMIT READ_LIMIT BACKGROUND STALL BLOCK_SIZE HASH PAUSE FIRST_COPY
	CREATE_LV XL_CONFIG PRE_SNAPSHOT POST_SNAPSHOT POST_DOMU HOOK_TIMEOUT LOG_FACILITY LOG_OPTION)
word='[A-Za-z0-9_.+:@][A-Za-z0-9_.+:@-]*' size='[0-9]*[1-9][0-9]*(\.[0-9]+)?([KMGTkmgt]([Ii]?[Bb])?|[Bb])?'
declare -A form=([DOM0S]=$word [EXCLUDE]=$word [CREATE_LV]=$word [SNAPSHOT_SIZE]=$size [BWLIMIT]=$size [READ_LIMIT]=$size
	[STALL]='[1-9][0-9]{0,7}' [HOOK_TIMEOUT]='[1-9][0-9]{0,7}' [HASH]='xxh64|sha256' [PAUSE]='no|auto|freeze|freeze-or-go'
	[FIRST_COPY]='spool|in-place' [BACKGROUND]='yes|no')
run_wide=(CONF_DIR XML_DIR LOCAL_DOM0 VIRSH_URI TOOLSTACK JOBS DOMUS_AT_ONCE MAX_AGE METRICS POST_RUN PING_URL RUN_DIR
	STATE_DIR SPOOL_DIR)

status='' json='' dry_run='' verify='' final='' force='' to='' only=() waiting=(-n) # options
work='' run='' about='' erase='' domus=() active=() known=() others=() reason=() # the run
dom0='' disk='' source='' set='' taken='' hooked='' last='' background='' stalled='' # a part of it
disks=() sources=() remotes=() left=()
declare -A row=() snapshots=() socket=()
declare -i failed=0
printf -v began '%(%s)T' -1
[[ ! -t 2 ]] || erase=$'\r\e[K'

main "$@"; exit
