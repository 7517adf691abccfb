#!/bin/bash
# xen-backup.sh - keep standby copies of the DomUs that run here on other Dom0s
#
# Run by cron, without arguments, on every Dom0. For each conf file it takes snapshots of the DomU's disks
# and brings the same volumes of every other Dom0 in DOM0S up to date. Drop-in for the script of 2009.
#
# Each part of a run is a child that is waited for (not the left side of "||"), so that "set -e" holds in it.
# Its standard error, and that of all commands, is the log: lines "LEVEL TEXT", and a run in which one is an
# err ends with 3, as a part does that has said what went wrong.
#
# Traps call functions, conf files are sourced, and lists of words are taken apart:
# shellcheck disable=SC2207,SC2317,SC1090,SC2086,SC2015,SC2153
if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
	echo "xen-backup.sh: needs bash 4.4 or newer, and this is $BASH_VERSION" >&2
	exit 78
fi
set -euo pipefail
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/sbin:/bin:/usr/sbin:/usr/bin

# Settings of the run; those of a conf file, and their defaults, are xb-locate's business.
CONF_DIR=${CONF_DIR:-} RUN_DIR=${RUN_DIR:-/run} LOG_FACILITY=${LOG_FACILITY:-local3} LOG_OPTION=${LOG_OPTION:-}
JOBS=${JOBS:-4} DOMUS_AT_ONCE=${DOMUS_AT_ONCE:-1} MAX_AGE=${MAX_AGE:-26h} HOOK_TIMEOUT=${HOOK_TIMEOUT:-60}
CONNECT_TIMEOUT=${CONNECT_TIMEOUT:-15} # seconds until a Dom0 answers, and a fourth of those until it lets us in
there=(${TOOLSTACK:+--toolstack "$TOOLSTACK"}) toolstack=("${there[@]}" ${VIRSH_URI:+--connect "$VIRSH_URI"})
local_name=(${LOCAL_DOM0:+--local "$LOCAL_DOM0"})

status='' json='' gate='' dry_run='' verify='' final='' force='' to='' only=() waiting=(-n) # options
work='' group='' stopped='' syslog='' logger='' erase='' began='' failed=0 reach=() # the run
DOMU='' n='' hooked='' exclude=() remotes=() sources=()                            # a DomU: its trap has no locals

usage() {
	cat <<'END'
Usage: xen-backup.sh [--dry-run] [--verify] [--to DOM0] [--wait [TIME]] [DOMU...]
       xen-backup.sh --final|--force-diverged [OPTION...] DOMU
       xen-backup.sh --status [--json] [DOMU...]
       xen-backup.sh --gate-conf DOM0 [DOMU...]

Bring the standby copies of the DomUs that run on this Dom0 up to date: of all that have
a conf file in /etc/xen-backup.d, or only those named. Settings: xen-backup.conf(5).

  --dry-run         change nothing; say what would be done
  --verify          compare each copy with its source afterwards
  --to DOM0         only the copies on this Dom0
  --wait [TIME]     wait for a run that is at work: 90, 90s, 10m, 2h; without TIME, long
  --final           last copy before a planned move, of a DomU shut off everywhere
  --force-diverged  overwrite copies whose changes exist nowhere else, as after a
                    failover the image that the dead Dom0 came back with
  --status          tell what is copied, and how old it is
  --gate-conf DOM0  print what that Dom0's gate.conf needs for the copies made here

Exit status: 0 done or nothing to do, 3 at least one DomU or Dom0 failed, 64 usage,
73 cannot write to RUN_DIR, 75 another run is at work, 78 configuration or bash, 143
stopped by a signal. --status: 0 all copies are younger than MAX_AGE, 1 one is
older, 2 one fails, is missing or twice as old, 3 cannot tell.
END
}

# --- the log ------------------------------------------------------------------

# log_mesg logs: to syslog; to a terminal; and to cron's mail what is no info. A part of the run has it done by
# the first process.
log_mesg() { # LEVEL MESSAGE
	local -A priority=([err]=3 [warning]=4 [info]=6)
	local text=${*:2}
	if ((BASHPID != $$)); then
		echo "$1 ${text//$'\n'/ }" >&2
		return
	fi
	text=${text%$'\r'} text=${text//[[:space:]]/ } text=${text//[^[:print:]]/?}
	[[ $1 != err ]] || ((failed)) || failed=3
	[[ -z $syslog ]] || echo "<${priority[$1]}>$text" >&"$syslog" || :
	[[ $1 = info && -z $dry_run$erase ]] || printf '%s%s\n' "$erase" "$text" >&2 || :
}

# log_stdin logs what the parts of the run say, until the last of them has ended.
log_stdin() {
	local line
	while IFS= read -r line || [[ -n $line ]]; do
		case $line in
		'progress '*) [[ -z $erase ]] || printf '%s\e[?7l%s\e[?7h' "$erase" "${line#* }" >&2 || : ;;
		'info '* | 'warning '* | 'err '*) log_mesg "${line%% *}" "${line#* }" ;;
		*) log_mesg err "## $line" ;;
		esac
	done
}

to_syslog() { # takes lines with a priority; what syslog does not take is for the mail
	local line
	trap '' TERM INT HUP
	logger --socket-errors=on --prio-prefix -t "xen-backup.sh[$$]" -p "$LOG_FACILITY.info" $LOG_OPTION \
		2>/dev/null ||
		while IFS= read -r line; do
			[[ $line != '<6>'* || -n $dry_run$erase ]] || printf '%s\n' "${line:3}" >&2
		done
}

tell() { # PREFIX [LEVEL]: logs standard input, each line with this level or with the one that it begins with
	local line
	while IFS= read -r line || [[ -n $line ]]; do
		line=${2:+$2 }$line
		log_mesg "${line%% *}" "$1${line#* }"
	done
}

die() { # STATUS MESSAGE
	log_mesg err "$2"
	exit "$1"
}

fail() { # STATUS MESSAGE: this DomU is lost, the others go on
	if [[ -n $DOMU ]]; then record other "$1" < <(echo "$2"); fi
	[[ -n $DOMU ]] || log_mesg err "### ERROR $1: $2"
	return 3
}

# record has xb-patch remember how a step ended, and find the words for it, in what was said.
record() { # STEP STATUS
	xb-patch --record --disk "$DOMU" --peer - --step "$1" --stages "$2" ${dry_run:+--dry-run} >&2 || :
	return 3
}

now() { printf '%(%a %b %e %T %Z %Y)T' -1; }

hook() { # SETTING STATUS: runs a command of the administrator's
	local code=0 level=info said=$work/hook.$BASHPID
	[[ -n ${!1:-} && -z $dry_run && ($1 != *_SNAPSHOT || -z $final) ]] || return 0
	DOMU=$DOMU STATUS=$2 PEER=${remotes[*]} timeout --foreground -k 5 "$HOOK_TIMEOUT" bash -c "${!1}" \
		</dev/null >"$said" 2>&1 || code=$? level=err
	tell "## ${DOMU:+DomU $DOMU: }$1: " "$level" <"$said"
	((code == 0)) || fail 69 "$1 ended with status $code"
}

ping_url() { # WORD: never makes a run fail
	[[ -z ${PING_URL:-} || -n $dry_run ]] || curl -fsS -m 10 --retry 2 -o /dev/null "$PING_URL$1" 2>"$work/ping" ||
		tell "## PING_URL: " info <"$work/ping"
}

# --- one DomU -----------------------------------------------------------------

skip() { # REASON: the DomU is not copied; an error if it was asked for by name
	local asked=$((${#only[@]} > 0)) levels=(info err)
	log_mesg "${levels[asked]}" "## SKIP: DomU $DOMU is not running on this host: $1"
	exit $((asked * 3))
}

# unknown is for a DomU that does not run here. If no Dom0 knows it, and it was never copied, its conf file must
# mean another one.
unknown() { # KNOWN OTHERS REASON
	local known=$1 document=${XML_DIR:-$CONF_DIR}/$DOMU
	[[ ! -e $document.xml && ! -e $document.cfg ]] || known=yes
	[[ $known != no || $2 = - ]] || known=$(xb-copy --known "${reach[@]}" "${there[@]}" "$DOMU" $2)
	[[ $known != no ]] ||
		fail 78 "no Dom0 knows a DomU of that name, and it was never copied: is DOMU right in its conf file?"
	skip "$3"
}

here() { # STEP OUTPUT PROGRAM ARGUMENT...: runs it on this host for the DomU
	local code=0 said=$work/$n.said reason
	"${@:3}" >"$2" 2>"$said" || code=$?
	reason=$(<"$said") # err xb-locate: REASON
	((code != 1)) || skip "${reason#*: }"
	((code == 0)) || record "$1" "$code" <"$said"
	tell "## DomU $DOMU: " <"$said"
}

# locate finds the disks, the document, and the names of all standbys.
locate() {
	local name disk source dom0 document=()
	for disk in $EXCLUDE; do exclude+=(--exclude "$disk"); done
	[[ -n $dry_run ]] || document=(--document-file "${XML_DIR:-$CONF_DIR}/$DOMU")
	here locate "$work/$n.rows" xb-locate --copy --words "${toolstack[@]}" "${exclude[@]}" "${local_name[@]}" \
		--dom0s "$DOM0S" --rules "$MAP" --note "$work/$n.note" --bundle "$work/$n.bundle" "${document[@]}" \
		${XL_CONFIG:+--xl-config "$XL_CONFIG"} ${final:+--final} "$DOMU"
	while IFS=$'\t' read -r name dom0 _ _ source _; do
		local_dom0=$name
		[[ " ${remotes[*]} " = *" $dom0 "* ]] || remotes+=("$dom0")
		[[ $dom0 != "${remotes[0]}" ]] || sources+=("$source")
	done <"$work/$n.rows"
	((${#sources[@]})) || fail 78 "it has no disk to copy, or EXCLUDE names them all: $EXCLUDE"
}

take_snapshots() {
	local i=0 path size how=()
	[[ $PAUSE != auto || -n $final ]] || how=(--pause "$DOMU" "${toolstack[@]}")
	[[ $PAUSE != freeze* || -n $final ]] || how=("--$PAUSE" "$DOMU" "${toolstack[@]}")
	hooked=1
	hook PRE_SNAPSHOT 0
	here snapshot "$work/$n.snapshots" xb-snap create --words -v --uri --owner "$run" --size "$SNAPSHOT_SIZE" \
		"${how[@]}" ${final:+--or-none} ${dry_run:+--dry-run} "${sources[@]}"
	hooked=''
	hook POST_SNAPSHOT 0
	[[ -z $dry_run ]] || return 0
	while read -r path; do
		[[ $path = /dev/* ]] && size=" with size $SNAPSHOT_SIZE" || size=''
		log_mesg info "### local Dom0 $local_dom0: take snapshot ${path##*/} for ${sources[i++]}$size"
	done <"$work/$n.snapshots"
	[[ -n $final && ! -s $work/$n.snapshots ]] || common+=(--snapshots "$work/$n.snapshots")
	[[ -n $final ]] ||
		here still /dev/null xb-locate --words "${toolstack[@]}" "${exclude[@]}" --still "$work/$n.note" "$DOMU"
}

leave_domu() { # STATUS: whatever happened, nothing stays behind
	local code=$1 snaps=()
	trap '' TERM INT HUP
	[[ -z $hooked ]] || hook POST_SNAPSHOT 3 || code=3
	mapfile -t snaps <"$work/$n.snapshots"
	if ((${#snaps[@]})) && [[ -z $dry_run ]]; then
		set -m # a process group of its own, which no second signal to this run reaches
		xb-snap remove --words --unless-kept "${snaps[@]}" </dev/null 2>"$work/$n.said" &
		wait "$!" || code=3
		set +m
		tell "## DomU $DOMU: " <"$work/$n.said"
	fi
	# Whoever has caused it: a guest stands still that cannot write.
	if ((code < 128)) && [[ -s $work/$n.rows && $(xb-locate --stuck "${toolstack[@]}" "$DOMU") = yes ]]; then
		code=3
		fail 74 "it is paused by an I/O error: is there room where its disks are? Then: virsh resume $DOMU" || :
	fi
	hook POST_DOMU $((code ? 3 : 0)) || code=3
	exit "$code"
}

# backup_domu is a child that does one conf file; what the file sets is gone afterwards.
backup_domu() { # NUMBER ACTIVE KNOWN OTHERS REASON
	local local_dom0 taken common code=0
	n=$1
	. "$work/$n"
	log_mesg info "## checking DomU $DOMU"
	[[ $2 != no || -n $final ]] || unknown "${@:3}"
	echo "$$ $began $DOMU" >"$RUN_DIR/xen-backup.lock"
	: >"$work/$n.snapshots"
	trap 'leave_domu "$?"' EXIT
	trap 'exit 143' TERM INT HUP
	locate
	log_mesg info "## BACKUP: DomU $DOMU to remote Dom0(s): [${remotes[*]}]"
	common=("${reach[@]}" "${there[@]}" --domu "$DOMU" ${to:+--to "$to"} ${force:+--force-diverged} "${exclude[@]}"
		--jobs "$JOBS" --at-once "$DOMUS_AT_ONCE" --stall "$STALL" -b "$BLOCK_SIZE" --hash "$HASH"
		--track "$TRACK" ${CREATE_LV:+--create-lv "$CREATE_LV"} ${FIRST_COPY:+--first-copy "$FIRST_COPY"}
		--background="${BACKGROUND:-yes}" --verify-every "$VERIFY_EVERY" ${final:+--final})
	xb-copy --prepare "${common[@]}" ${dry_run:+--dry-run} <"$work/$n.rows" >"$work/$n.ready" || code=$?
	((code != 81)) && [[ -s $work/$n.ready ]] || exit $((code == 81 ? 3 : code))
	TZ=UTC printf -v taken '%(%FT%TZ)T' -1
	# What is shut off can be read as it is.
	[[ -n $final && $(<"$work/$n.ready") != *' basis='* ]] || take_snapshots
	[[ -n $dry_run ]] || xb-copy "${common[@]}" --taken "$taken" --bundle "$work/$n.bundle" ${verify:+--verify} \
		${BWLIMIT:+--bwlimit "$BWLIMIT"} ${READ_LIMIT:+--read-limit "$READ_LIMIT"} ${KEEP:+--keep "$KEEP"} \
		<"$work/$n.ready" || code=$?
	exit "$code"
}

# --- the run ------------------------------------------------------------------

# connect opens the one connection to each Dom0 that all commands share. Who is dead is found out here, once. Its
# program ends with this part of the run.
connect() { # DOM0...
	(($#)) || return 0
	coproc masters { exec xb-copy --connect "${reach[@]}" "$@"; }
	disown # no DomU that is waited for
	read -r _ <&"${masters[0]-}" || : # all is known
}

# backup_all is a child that does all conf files, the DomU with the oldest copy first.
backup_all() {
	local i domu peer pid code running run=$BASHPID guard=
	local order=() parts=() active=() known=() others=() reason=()
	local -A numbers=() wanted=()
	trap 'trap "" TERM INT HUP; wait; exit 143' TERM INT HUP
	ping_url /start
	xb-locate --plan --words --confs "$CONF_DIR" --settings "$work" "${toolstack[@]}" "${local_name[@]}" \
		"${only[@]}" >"$work/plan" || failed=3
	while IFS=$'\t' read -r i domu 'active[i]' 'known[i]' 'others[i]' 'reason[i]'; do
		[[ -n ${numbers[$domu]:-} ]] || order+=("$domu")
		numbers[$domu]+=" $i"
		[[ ${active[i]} = no && ${known[i]} != no && -z $final ]] ||
			for peer in ${others[i]#-}; do wanted[$peer]=1; done
	done <"$work/plan"
	[[ -z $to || " ${others[*]} " = *" $to "* ]] || fail 78 "no DomU has a standby on $to" || failed=3
	connect "${!wanted[@]}"
	if [[ -z $dry_run ]]; then
		xb-snap prune --words --plan "$work/plan" >"$work/pruned" || failed=3 # of runs that were killed
		tell "## removed leftover snapshot " info <"$work/pruned"
		xb-snap guard --words --owner "$run" >/dev/null & # that no snapshot takes the room that a guest needs
		guard=$!
		disown
	fi
	((${#order[@]} <= 1)) || order=($(xb-patch --list --order "${order[@]}"))
	for domu in "${order[@]}"; do
		for i in ${numbers[$domu]}; do
			while running=($(jobs -pr)) && ((${#running[@]} >= DOMUS_AT_ONCE)); do wait -n || :; done
			backup_domu "$i" "${active[i]}" "${known[i]}" "${others[i]}" "${reason[i]}" &
			parts[$!]=$domu
		done
	done
	for pid in "${!parts[@]}"; do
		code=0
		wait "$pid" || code=$?
		((code == 0)) || failed=3
		((code == 0 || code == 3)) || DOMU=${parts[pid]} fail 70 "it broke off with status $code" || :
	done
	[[ -z $guard ]] || kill "$guard" || failed=3 # it should be there still
	exit "$failed"
}

# end_run is a child that tells how the run went.
end_run() {
	local level=info
	if [[ -z $dry_run ]] && ((failed < 128)); then
		((failed == 0)) || level=warning
		xb-patch --list --since "$began" ${METRICS:+--metrics "$METRICS"} >"$work/summary" 2>&1 ||
			level=err failed=3
		tell "# " "$level" <"$work/summary"
		hook POST_RUN "$failed" || failed=3
	fi
	ping_url "$( ((failed == 0)) || echo /fail)"
	exit "$failed"
}

# in_group runs a part of the run in a process group of its own, so that TERM reaches every command of it at once.
in_group() { # FUNCTION
	local code=0
	set -m
	"$1" </dev/null 2>"$work/log" {syslog}>&- & # who reads a terminal in the background is stopped
	group=$!
	set +m
	[[ -z $stopped ]] || stop
	log_stdin <"$work/log"
	wait "$group" || code=$?
	group=''
	((code == 0 || failed)) || failed=3
	((code < 128)) || failed=143
}

run() {
	local dir
	for dir in "$RUN_DIR"/xen-backup.[0-9]*; do # of runs that were killed
		[[ ! -d $dir || -d /proc/${dir##*.} ]] || rm -rf "$dir"
	done
	work=$RUN_DIR/xen-backup.$$ reach=(--run "$RUN_DIR/xen-backup.$$" --connect-timeout "$CONNECT_TIMEOUT")
	mkdir -m 700 "$work" && mkfifo "$work/log" || die 73 "cannot create a directory in $RUN_DIR"
	trap stop TERM INT HUP
	in_group backup_all
	((failed < 128)) || log_mesg err "### ERROR: the run was stopped by a signal"
	stopped=''
	in_group end_run
	log_mesg info "# end backup script $(now)"
	exit "$failed"
}

stop() {
	stopped=1
	[[ -n $group ]] || return 0
	kill -TERM -- "-$group" 2>/dev/null || :
	kill -CONT -- "-$group" 2>/dev/null || : # what stands still does not hear
}

leave() { # STATUS
	trap '' TERM INT HUP
	[[ -z $work ]] || rm -rf "$work"
	exec {syslog}>&-
	wait "$logger" || :
	exit "$1"
}

# lock takes the lock. It is held by an open file, not by a file's existence: it can't go stale.
lock() {
	local pid='' since='' domu='' level=info at
	exec 9>>"$RUN_DIR/xen-backup.lock" || die 73 "cannot create $RUN_DIR/xen-backup.lock"
	printf -v began '%(%s)T' -1
	if ! flock "${waiting[@]}" 9; then
		read -r pid since domu <"$RUN_DIR/xen-backup.lock" || :
		((${since:=$began} > began - 86400)) || level=err # cron hears only of that
		printf -v at '%(%F %T)T' "$since"
		log_mesg "$level" "## another process is running: $pid, since $at${domu:+, at DomU $domu}"
		exit 75
	fi
	printf -v began '%(%s)T' -1
	echo "$$ $began" >"$RUN_DIR/xen-backup.lock"
}

show_status() { # or what another host's gate.conf needs
	local codes=(0 0) words=("${toolstack[@]}" "${local_name[@]}" "${only[@]}")
	check_settings
	[[ -z $gate ]] || exec xb-locate --plan --gate-conf "$gate" --confs "$CONF_DIR" "${words[@]}"
	xb-locate --plan --disks --confs "$CONF_DIR" "${words[@]}" |
		xb-patch --list --expected - --max-age "$MAX_AGE" $json || codes=("${PIPESTATUS[@]}")
	exit $((codes[0] && codes[1] < 2 ? 3 : codes[1]))
}

misuse() { die 64 "xen-backup.sh: $1; see --help"; }

options() { # WORD...
	local word='^[A-Za-z0-9_.+:@][A-Za-z0-9_.+:@-]*$'
	local -A unit=([m]=60 [h]=3600)
	while (($#)); do
		case $1 in
		--dry-run) dry_run=1 ;;
		--verify) verify=1 ;;
		--final) final=1 ;;
		--force-diverged) force=1 ;;
		--to) to=${2:-} && [[ $to =~ $word ]] && shift || misuse "--to needs the name of a Dom0" ;;
		--wait) waiting=() && [[ ! ${2:-} =~ ^([0-9]{1,6})([smh]?)$ ]] ||
			{ waiting=(-w $((10#${BASH_REMATCH[1]} * ${unit[${BASH_REMATCH[2]:-s}]:-1}))) && shift; } ;;
		--status) status+=1 ;;
		--json) json=--json ;;
		--gate-conf) status+=1 gate=${2:-} && [[ $gate =~ $word ]] && shift || misuse "$1 needs a Dom0" ;;
		-h | --help) usage || exit 74 && exit 0 ;;
		-*) misuse "unknown option $1" ;;
		*) [[ $1 =~ $word ]] && only+=("$1") || misuse "bad name of a DomU: $1" ;;
		esac
		shift
	done
	[[ -z $final || -z $force ]] || misuse "--final and --force-diverged exclude each other"
	[[ -z $final$force || ${#only[@]} = 1 ]] || misuse "--final and --force-diverged need one DomU"
	[[ -z $status$json || $status = 1 && -z $dry_run$verify$final$force$to${gate:+$json} ]] ||
		misuse "--status goes with --json alone, and --gate-conf with nothing"
}

check_settings() { # those of the run
	local dir name
	for dir in "$CONF_DIR" /etc/xen-backup.d /root/Works/Xen-Backup/xen-backup.d; do
		if [[ -n $dir && (-d $dir || $dir = "$CONF_DIR") ]]; then CONF_DIR=$dir && break; fi
	done
	[[ -d $CONF_DIR ]] || die 78 "no directory of conf files: ${CONF_DIR:-/etc/xen-backup.d}"
	[[ -z ${STATE_DIR:-}${SPOOL_DIR:-} ]] ||
		die 78 "STATE_DIR, SPOOL_DIR: set them in /etc/xen-backup/host.conf of the host that they are for"
	[[ $RUN_DIR =~ ^/[A-Za-z0-9_/.+:@-]*$ ]] || die 78 "bad name in RUN_DIR: $RUN_DIR"
	# ssh's sockets are RUN_DIR/xen-backup.PID/ssh.N.XXXXXXXXXXXXXXXX, and a socket's name has at most 107 bytes.
	((${#RUN_DIR} <= 31)) || die 78 "RUN_DIR has more than 31 characters, too many for ssh's sockets: $RUN_DIR"
	for name in JOBS DOMUS_AT_ONCE; do [[ ${!name} =~ ^[1-9][0-9]{0,3}$ ]] || die 78 "bad $name: ${!name}"; done
}

main() {
	options "$@"
	trap '' PIPE TTOU # whoever reads what is said, or does not: the run goes on
	[[ ! -t 2 ]] || erase=$'\r\e[K'
	[[ -z $status ]] || show_status
	exec {syslog}> >(to_syslog)
	logger=$!
	trap 'leave "$?"' EXIT
	log_mesg info "# Start $0 $(now)"
	check_settings
	lock
	# Bash keeps the file for itself, closed on exec: the lock is held by all parts of the run, and by no program
	# that one of them starts and that may stay behind.
	run 9>&-
}

main "$@"; exit
