#!/bin/bash
# xen-backup.sh - keep standby copies of the DomUs that run here on other Dom0s
#
# Run by cron, without arguments, on every Dom0. For each conf file it takes snapshots of the DomU's disks
# and brings the same volumes of every other Dom0 in DOM0S up to date. Drop-in for the script of 2009.
#
# All but the last lines are functions, so that bash has read all of it before the run begins: the file may
# be replaced meanwhile. Each part of a run is a child that is waited for (not the left side of "||"), so
# that "set -e" holds in it; its status is 3 if it has said what went wrong. Its files are
# $work/CONF[.DOM0[.DISK]].WHAT, where CONF and DISK are numbers.
#
# Traps call functions, conf files are sourced, and lists of words are taken apart:
# shellcheck disable=SC2317,SC1090,SC2086,SC2206,SC2046,SC2048,SC2116,SC2015,SC2153
if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
	echo "xen-backup.sh: needs bash 4.4 or newer, and this is $BASH_VERSION" >&2
	exit 78
fi
set -euo pipefail
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/sbin:/bin:/usr/sbin:/usr/bin

usage() {
	cat <<'END'
Usage: xen-backup.sh [--dry-run] [--verify] [--to DOM0] [--wait [TIME]] [DOMU...]
       xen-backup.sh --final|--force-diverged [OPTION...] DOMU
       xen-backup.sh --status [--json] [DOMU...]

Bring the standby copies of the DomUs that run on this Dom0 up to date: of all
that have a conf file in /etc/xen-backup.d, or only those named. The README
explains the settings, which are in conf files and in the environment.

  --dry-run         change nothing; say what would be done
  --verify          compare each copy with its source afterwards
  --to DOM0         only the copies on this Dom0
  --wait [TIME]     wait for a run that is at work, at most TIME: 600, 10m, 2h
  --final           last copy before a planned move: the DomU must be shut off
                    everywhere, and is read without a snapshot
  --force-diverged  overwrite copies whose changes exist nowhere else, as after a
                    failover the image that the dead Dom0 came back with
  --status          tell what is copied, and how old it is
  -h, --help        show this help

Exit status: 0 done or nothing to do, 3 at least one DomU or Dom0 failed, 64
usage, 73 cannot write to RUN_DIR, 75 another run is at work, 78 configuration
or bash, 143 stopped by a signal. --status: 0 all copies are younger than
MAX_AGE, 1 one is older, 2 one fails, is missing or twice as old, 3 cannot tell.
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
	# LOG_OPTION is a list of options.
	# shellcheck disable=SC2086
	logger --socket-errors=on --prio-prefix -t "xen-backup.sh[$$]" -p "$LOG_FACILITY.info" $LOG_OPTION ||
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
	while read -rd '' -a running < <(jobs -pr) || ((${#running[@]} >= $1)); do wait -n || :; done
}

pause() { read -rt "$1" <>"$work/never" || :; } # SECONDS: without a program that would outlive this one

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

# check_settings refuses what would else be found out late, or never.
check_settings() { # CONF
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
	[[ -f $conf ]] && bash -n "$conf" 2>"$file.said" || exit 78
	names=$(compgen -v)
	readonly "${run_wide[@]}"
	set +eu # as the script of 2009 did
	# The file may use the names of this script for something of its own.
	eval '. "$conf" 2>"$file.said";' "$(declare -p IFS conf file names settings form word work only about status dry_run erase failed)"
	set -euf +C # no names of files in lists
	DOMU=${DOMU:-} DOM0S=$(echo ${DOM0S[*]:-}) MAP=$(echo ${MAP[*]:-}) EXCLUDE=$(echo ${EXCLUDE[*]:-})
	: >"$file"
	((${#only[@]} == 0)) || [[ " ${only[*]} " = *" $DOMU "* ]] || exit 0
	# "MAP = ..." and a list without quotes are commands that are not found, and no MAP.
	[[ $(<"$file.said") != *"$conf: line "* ]] || exit 78
	log_file warning "## $conf: " "$file.said"
	for setting in "${settings[@]}"; do printf -v "$setting" %s "${!setting:-}"; done
	check_names "$conf" "$names"
	check_settings "$conf"
	for setting in "${settings[@]}"; do printf '%s=%q\n' "$setting" "${!setting}"; done >"$file"
}

# read_confs sets domus, by the numbers of their conf files.
read_confs() {
	local conf code n=0 domu unread=''
	for conf in "$CONF_DIR"/*.conf; do
		[[ -e $conf || -L $conf ]] || die 78 "no conf file in $CONF_DIR"
		n=$((n + 1)) code=0
		read_conf "$conf" "$work/$n" &
		wait "$!" || code=$?
		if [[ -s $work/$n ]]; then
			IFS='=' read -r _ 'domus[n]' <"$work/$n"
		elif ((code == 3)); then
			failed=1
		elif [[ ! -e $work/$n ]] && ((${#only[@]})); then # who is asked for and has no other is told of below
			unread+=" $conf"
		elif ((code)) || [[ ! -e $work/$n ]]; then
			[[ ! -e $work/$n.said ]] || log_file err "## " "$work/$n.said"
			fail 78 "$conf: not a file of shell variables, or it sets what is for the whole run, or it ends the script" || :
		fi
	done
	for domu in "${only[@]}"; do
		[[ " ${domus[*]} " = *" $domu "* ]] ||
			fail 78 "no conf file for DomU $domu${unread:+, unless it is one with a mistake, which bash -n FILE shows:$unread}" || :
	done
}

# --- the other Dom0s ----------------------------------------------------------

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

# at makes a part of the run one for a Dom0, or for a disk there.
at() { # DOM0 [NUMBER-OF-THE-DISK]
	local there_too
	dom0=$1 place=$1 t=$work/$n.$1 failed=0 there=(ssh "${ssh_options[@]}" -o "ControlPath=${socket[$1]}" "$1")
	[[ -n ${2:-} ]] || return 0
	read -ra there_too <<<"${targets[$1]}"
	disk=${disks[$2]} source=${sources[$2]} target=${there_too[$2]} place=$1:$target t+=.$2 progress="$work/progress $DOMU $disk to $1"
	patch_options=(--heartbeat --peer "$local_dom0" --disk "$DOMU/$disk" --sector-size "${sectors[$2]}" ${uuid:+--uuid "$uuid"}
		${TOOLSTACK:+--toolstack "$TOOLSTACK"} ${CREATE_LV:+--create-lv "$CREATE_LV"} ${FIRST_COPY:+--first-copy "$FIRST_COPY"}
		${force:+--force-diverged})
	if [[ -e $t.prepared ]]; then . "$t.prepared"; fi
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
	record "${source:-}" "$1" "${stages[*]}" ${stalled:+--stalled "$stalled"} ${source:+--target "$target"} \
		${last:+--last "$last"} "${@:2}" <"$t.said"
}

# ask is a child that asks a Dom0 whether the DomU is active there, too: the status is 81, then.
ask() { # DOM0
	at "$1"
	if [[ -e $work/dead.$1 ]]; then
		record '' connect 255 <"$work/ssh.$1.said" || exit 3
	fi
	watched 150 at_dom0 xb-locate --active ${TOOLSTACK:+--toolstack "$TOOLSTACK"} "$DOMU"
	case ${stages[0]}:$(<"$t.answer") in
	0:no) return 0 ;;
	0:yes) stages=(81) ;;
	0:*) stages=(76) ;; # a shell that does nothing, or says more
	esac
	ended ask || exit $((stages[0] == 81 ? 81 : 3))
}

# prepare is a child that has a Dom0 look at its standbys before there is a snapshot, and finish what was
# interrupted there.
prepare() { # DOM0
	local i line lost=''
	for i in "${!disks[@]}"; do
		at "$1" "$i"
		if [[ -e $work/dead.$1 ]]; then # as was said
			lost+=" $disk"
			continue
		fi
		watched "$STALL" at_dom0 xb-patch --prepare "${patch_options[@]}" --size "${sizes[i]}" "${hash[@]}" \
			${dry_run:+--dry-run} "$target"
		while read -r line; do
			case $line in full\ * | tracked\ *) : >"$t.prepared" ;; *) continue ;; esac
			[[ $line != *' guests=yes'* || $BACKGROUND = no || -n $final ]] || echo 'background=--background' >>"$t.prepared"
			[[ ! $line =~ \ last=([^ ]+) ]] || echo "last=${BASH_REMATCH[1]}" >>"$t.prepared"
		done <"$t.answer"
		((stages)) || [[ -e $t.prepared ]] || stages=(76)
		ended prepare || lost+=" $disk"
		[[ -z $dry_run || ! -e $t.prepared ]] || log_mesg info "### would sync $DOMU from $local_dom0 to $dom0: $source to $target"
	done
	[[ -z $lost ]] || tell_when "failed:$lost; "
}

copy() { # NUMBER
	local into=(${set:+--hold "$set" --taken "$taken"})
	[[ ${owners[$1]} = - ]] || into+=(--owner "${owners[$1]}")
	[[ ${modes[$1]} = - ]] || into+=(--mode "${modes[$1]}")
	stages=(0 0 0)
	stage "${there[@]}" xb-sig --heartbeat --missing-ok $background "${hash[@]}" "$target" </dev/null |
		stage xb-delta --heartbeat "${reading[@]}" ${BWLIMIT:+--bwlimit "$BWLIMIT"} --progress-file "$progress" \
			--summary "$t.summary" "${snapshots[$1]:-$source}" |
		stage "${there[@]}" xb-patch --auto "${patch_options[@]}" $background "${into[@]}" "$target" >>"$t.answer" ||
		stages=("${PIPESTATUS[@]}")
	rm -f "$progress"
}

compare() { # NUMBER
	stages=(0 0)
	stage "${there[@]}" xb-sig --heartbeat $background "${hash[@]}" "$target" </dev/null |
		stage xb-delta --heartbeat "${reading[@]}" --check "${snapshots[$1]:-$source}" >>"$t.answer" || stages=("${PIPESTATUS[@]}")
}

# copy_disk is a child that brings one standby up to date. Where the DomU has several, the new image is only
# held there.
copy_disk() { # DOM0 NUMBER
	at "$1" "$2"
	log_mesg info "### sync $DOMU from $local_dom0 to $dom0: $source to $target"
	watched "$STALL" copy "$2"
	[[ -n $set && ${stages[*]} = '0 0 0' ]] || ended copy --sent "$t.summary" ${final:+--final}
}

# finish_disk is a child that remembers what came in a set, and compares a copy with its source.
finish_disk() { # DOM0 NUMBER
	at "$1" "$2"
	stages=(0 0 0)
	[[ -z $set ]] || ended copy --sent "$t.summary" ${final:+--final} --set "$set"
	[[ -n $verify ]] || return 0
	watched "$STALL" compare "$2"
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
	local i parts=() lost='' store=() there_too
	at "$1"
	((${#disks[@]} == 1)) || new_set
	for i in "${!disks[@]}"; do
		at_most "$share"
		copy_disk "$1" "$i" &
		parts+=($!)
	done
	for i in "${!disks[@]}"; do await "${parts[i]}" "disk ${disks[i]} to $1" || lost+=" ${disks[i]}"; done
	read -ra there_too <<<"${targets[$1]}"
	if [[ -n $set && -z $lost ]]; then
		log_mesg info "### commit $DOMU on $dom0: ${disks[*]}, of $taken"
		watched "$STALL" at_dom0 xb-patch --commit "$set" --peer "$local_dom0" --heartbeat "${there_too[@]}"
		ended commit --set "$set" || tell_when
	fi
	[[ -z $lost ]] || tell_when "failed:$lost; "
	for i in "${!disks[@]}"; do
		finish_disk "$1" "$i" &
		await "$!" "disk ${disks[i]} on $1" || :
		[[ ${there_too[i]} = "${sources[i]}" ]] || store+=(--map "${sources[i]}=${there_too[i]}")
	done
	for i in $EXCLUDE; do store+=(--drop "$i"); done
	[[ -z $set ]] || store+=(--set "$set" --taken "$taken")
	if [[ -s $work/$n.bundle ]]; then
		watched 300 at_dom0 xb-locate --store "$DOMU" --words "${store[@]}" <"$work/$n.bundle"
		((stages == 0)) || ended document || failed=1
		((stages)) || log_file warning "## remote Dom0 $dom0: " "$t.said"
	fi
	exit $((failed ? 3 : 0))
}

# --- one DomU -----------------------------------------------------------------

# skip is for a DomU that is not copied: an error if it was asked for by name.
skip() { # REASON
	local level=info
	((${#only[@]} == 0)) || level=err failed=1
	log_mesg "$level" "## SKIP: DomU $DOMU $1"
}

# local_step runs a program on this host for the DomU, and records it if it fails.
local_step() { # STEP OUTPUT PROGRAM ARGUMENT...
	local code=0
	"${@:3}" >"$2" 2>"$work/$n.said" || code=$?
	((code == 0)) || record '' "$1" "$code" <"$work/$n.said" || return 3
	log_file warning "## $about: " "$work/$n.said"
}

# locate finds the disks, the document, and the names of all standbys.
locate() {
	local disk source size sector owner mode dom0 list code=0 exclude=() keep=()
	[[ -n $dry_run ]] || keep=(--document-file "${XML_DIR:-$CONF_DIR}/$DOMU")
	for disk in $EXCLUDE; do exclude+=(--exclude "$disk"); done
	still=(xb-locate "${toolstack[@]}" "${exclude[@]}" --still "$work/$n.note" "$DOMU")
	xb-locate --copy --words "${toolstack[@]}" "${exclude[@]}" ${XL_CONFIG:+--xl-config "$XL_CONFIG"} ${final:+--final} \
		--bundle "$work/$n.bundle" --note "$work/$n.note" "${keep[@]}" "$DOMU" >"$work/$n.disks" 2>"$work/$n.said" || code=$?
	if ((code == 1)); then
		skip "is not running on this host: $(<"$work/$n.said")"
		exit $((failed ? 3 : 0))
	elif ((code)); then
		record '' locate "$code" <"$work/$n.said" || return 3
	fi
	log_file warning "## $about: " "$work/$n.said"
	while IFS=$'\t' read -r disk source size sector owner mode uuid _; do
		disks+=("$disk") sources+=("$source") sizes+=("$size") sectors+=("$sector") owners+=("$owner") modes+=("$mode")
	done <"$work/$n.disks"
	uuid=${uuid#-}
	((${#disks[@]})) || fail 78 "it has no disk to copy, or EXCLUDE names them all: $EXCLUDE"
	local_step other "$work/$n.targets" xb-locate --targets --words --dom0s "$DOM0S" --rules "$MAP" "${here[@]}" "${sources[@]}"
	while IFS=$'\t' read -r dom0 list; do
		remotes+=("$dom0") targets[$dom0]=$list
	done <"$work/$n.targets"
	local_dom0=${remotes[0]} remotes=("${remotes[@]:1}")
}

# everywhere runs a part for each Dom0 of reachable, and leaves in it those where all is well.
everywhere() { # NUMBER-AT-THE-SAME-TIME FUNCTION
	local dom0 code parts=() good=()
	for dom0 in "${reachable[@]}"; do
		at_most "$1"
		"$2" "$dom0" &
		parts+=($!)
	done
	for dom0 in "${reachable[@]}"; do
		code=0
		wait "${parts[0]}" || code=$?
		parts=("${parts[@]:1}")
		case $code in
		0) [[ -n $to && $dom0 != "$to" ]] || good+=("$dom0") ;;
		3) failed=1 ;;
		81) twice=1 failed=1 ;;
		*) fail 70 "Dom0 $dom0: it broke off with status $code" || : ;;
		esac
	done
	reachable=("${good[@]}")
}

take_snapshots() {
	local i size how=()
	case $PAUSE in auto) how=(--pause "$DOMU") ;; freeze*) how=("--$PAUSE" "$DOMU") ;; esac
	hooked=1
	hook PRE_SNAPSHOT 0
	local_step snapshot "$work/$n.snapshots" xb-snap create --words -v --uri --owner "$run" --size "$SNAPSHOT_SIZE" \
		"${how[@]}" ${how:+"${toolstack[@]}"} ${dry_run:+--dry-run} "${sources[@]}"
	hooked=''
	hook POST_SNAPSHOT 0
	[[ -z $dry_run ]] || return 0
	mapfile -t snapshots <"$work/$n.snapshots"
	for i in "${!sources[@]}"; do
		size=''
		[[ ${snapshots[i]} != /dev/* ]] || size=" with size $SNAPSHOT_SIZE"
		log_mesg info "### local Dom0 $local_dom0: take snapshot ${snapshots[i]##*/} for ${sources[i]}$size"
	done
	local_step still /dev/null "${still[@]}"
}

leave_domu() { # STATUS: whatever happened, nothing stays behind
	local code=$1
	trap '' TERM INT HUP
	[[ -z $hooked ]] || hook POST_SNAPSHOT 3 || code=3
	mapfile -t snapshots <"$work/$n.snapshots" # a signal may come before they are in the variable
	if ((${#snapshots[@]})) && [[ -z $dry_run ]]; then
		set -m # a process group of its own, which no second signal to this run reaches
		xb-snap remove --words "${snapshots[@]}" </dev/null 2>"$work/$n.said" &
		wait "$!" || code=3
		set +m
		log_file err "## $about: " "$work/$n.said"
	fi
	hook POST_DOMU "$code" || code=3
	exit "$code"
}

# backup_domu is a child that does one conf file; what the file sets is gone afterwards.
backup_domu() { # NUMBER
	n=$1 dom0='' failed=0
	. "$work/$n"
	about="DomU $DOMU"
	log_mesg info "## checking DomU $DOMU"
	echo "$$ $began $DOMU" >"$RUN_DIR/xen-backup.lock"
	if [[ ${active[n]} = no && -z $final ]]; then unknown; fi
	: >"$work/$n.snapshots"
	trap 'leave_domu "$?"' EXIT
	trap 'exit 143' TERM INT HUP
	locate
	log_mesg info "## BACKUP: DomU $DOMU to remote Dom0(s): [${to:-${remotes[*]}}]"
	reachable=("${remotes[@]}")
	everywhere 99 ask
	[[ -z $twice ]] || exit 3
	hash=(-b "${BLOCK_SIZE:-4K}" --hash "${HASH:-xxh64}") reading=(${READ_LIMIT:+--read-limit "$READ_LIMIT"})
	[[ $BACKGROUND = no || -n $final ]] || reading+=(--background)
	everywhere 99 prepare
	((${#reachable[@]})) || exit $((failed ? 3 : 0))
	TZ=UTC printf -v taken '%(%FT%TZ)T' -1
	[[ -n $final ]] || take_snapshots
	[[ -z $dry_run ]] || exit $((failed ? 3 : 0))
	[[ -z $final ]] || JOBS=1 # what is no snapshot must have but one reader
	share=$((JOBS / ${#reachable[@]}))
	[[ -z $BWLIMIT ]] && ((share)) || share=1
	everywhere "$JOBS" copy_to
	exit $((failed ? 3 : 0))
}

# unknown is for a DomU that this host does not know and was never copied: if no Dom0 knows it, its conf file must
# mean another one. If one cannot be asked it is not.
unknown() {
	local is_known=no
	for dom0 in ${others[n]}; do
		at "$dom0"
		[[ -e $work/dead.$dom0 ]] || watched 60 at_dom0 xb-locate --known ${TOOLSTACK:+--toolstack "$TOOLSTACK"} "$DOMU"
		[[ ! -e $work/dead.$dom0 && $(<"$t.answer") = no ]] || is_known=maybe
	done
	dom0=''
	[[ $is_known != no ]] || fail 78 "no Dom0 knows a DomU of that name, and it was never copied: is DOMU right in its conf file?"
	skip "is not running on this host: ${reason[n]}"
	exit $((failed ? 3 : 0))
}

new_set() { # a name of a set is 26 of a-z and 2-7
	local i
	read -r set </proc/sys/kernel/random/uuid
	for i in -: 0g 1h 8i 9j; do set=${set//${i:0:1}/${i:1}}; done
	set=${set//:/} set=${set:0:26}
}

# --- the run ------------------------------------------------------------------

# list_domus prints what the conf files say, for xb-locate --plan.
list_domus() {
	local n
	for n in "${!domus[@]}"; do
		(. "$work/$n" && printf '%s\t%s\t%s\n' "$DOMU" "$DOM0S" "$EXCLUDE")
	done
}

# show_progress is for a terminal: the copies that are under way, in its last line.
show_progress() {
	local file line text
	while pause 1; do
		text=''
		for file in "$work/progress "*; do
			if read -r line 2>/dev/null <"$file"; then text+="${text:+ | }${file#*/progress }: $line"; fi
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
	local i domu peer parts=() guard=none
	local -A numbers=() wanted=()
	set +m # all in one process group
	run=$BASHPID
	trap 'trap "" TERM INT HUP; wait; exit 143' TERM INT HUP
	read_confs
	((${#domus[@]})) || exit $((failed ? 3 : 0))
	if [[ -n $status ]]; then
		list_domus | xb-locate --plan --disks "${toolstack[@]}" "${here[@]}" |
			xb-patch --list --expected - --max-age "$MAX_AGE" $json
		exit
	fi
	list_domus | xb-locate --plan --words "${toolstack[@]}" "${here[@]}" >"$work/plan" 2>"$work/plan.said" || failed=1
	log_file err "## " "$work/plan.said"
	for i in "${!domus[@]}"; do
		IFS=$'\t' read -r _ 'active[i]' 'known[i]' 'others[i]' 'reason[i]'
		if [[ -z $final && ${active[i]} = no && (${known[i]} != no || -e ${XML_DIR:-$CONF_DIR}/${domus[i]}.xml ) ]]; then
			DOMU=${domus[i]}
			log_mesg info "## checking DomU $DOMU"
			skip "is not running on this host: ${reason[i]}"
		else
			numbers[${domus[i]}]+=" $i"
			for peer in ${others[i]}; do wanted[$peer]=1; done
		fi
	done <"$work/plan"
	connect "${!wanted[@]}"
	if [[ -z $dry_run ]]; then # leftovers of runs that were killed
		xb-snap prune --words >"$work/pruned" 2>"$work/prune" || failed=1
		log_file err "## " "$work/prune"
		log_file info "## removed leftover snapshot " "$work/pruned"
	fi
	[[ -z $erase ]] || { show_progress & disown; }
	for domu in $(xb-patch --list --order "${!numbers[@]}"); do
		for i in ${numbers[$domu]}; do
			[[ -n $dry_run$final ]] || guard_room
			at_most "$DOMUS_AT_ONCE"
			backup_domu "$i" &
			parts+=("$!")
		done
	done
	for i in "${parts[@]}"; do await "$i" "a DomU" || :; done
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
	log_mesg info "# Start $0 $(now)"
	ping_url /start
	trap stop TERM INT HUP
	set -m
	backup_all {keep}>&- &
	group=$!
	set +m
	if [[ -n $stopped ]]; then stop; fi
	while wait "$group" || code=$?; kill -0 "$group" 2>/dev/null; do code=0; done
	((code < 128)) || log_mesg err "### ERROR: the run was stopped by a signal"
	ping_url "$( ((code == 0)) || echo /fail)"
	log_mesg info "# end backup script $(now)"
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
	echo "$$ $began" >"$RUN_DIR/xen-backup.lock"
}

main() {
	local dir seconds
	while (($#)); do
		case $1 in
		--dry-run) dry_run=1 ;;
		--verify) verify=1 ;;
		--final) final=1 ;;
		--force-diverged) force=1 ;;
		--to) to=${2:-} && [[ $to =~ ^$word$ ]] && shift || misuse "--to needs the name of a Dom0" ;;
		--wait)
			waiting=()
			if [[ ${2:-} =~ ^([0-9]+)([smh]?)$ ]]; then
				seconds=${BASH_REMATCH[1]}
				case ${BASH_REMATCH[2]} in m) ((seconds *= 60)) ;; h) ((seconds *= 3600)) ;; esac
				waiting=(-w "$seconds")
				shift
			fi
			;;
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
	if [[ -n $status && -n $dry_run$verify$final$force$to || -n $json && -z $status ]]; then misuse "--status goes with --json alone"; fi
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
	if [[ -z $status ]]; then lock; fi
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
here=(${LOCAL_DOM0:+--local "$LOCAL_DOM0"})
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
dom0='' n='' set='' taken='' twice='' hooked='' uuid='' last='' background='' # a part of it
disks=() sources=() sizes=() sectors=() owners=() modes=() snapshots=() remotes=() reachable=()
declare -A targets=() socket=()
declare -i failed=0
printf -v began '%(%s)T' -1
[[ ! -t 2 ]] || erase=$'\r\e[K'

main "$@"; exit
