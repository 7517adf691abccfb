#!/bin/bash
# xen-failover.sh - start a DomU from the standbys of its disks
#
# xen-backup.sh keeps copies of DomUs on other Dom0s; this starts a DomU there. What needs judgement is in the
# programs: xb-locate judges the document, xb-patch the disks, and keeps runs away from them meanwhile.
# shellcheck disable=SC2317,SC2015,SC2086
((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || { echo "xen-failover: needs bash 4.4 or newer" >&2 && exit 78; }
set -euo pipefail
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/sbin:/bin:/usr/sbin:/usr/bin

CONF_DIR=${CONF_DIR:-} RUN_DIR=${RUN_DIR:-/run} LOG_FACILITY=${LOG_FACILITY:-local3} LOG_OPTION=${LOG_OPTION:-}
CONNECT_TIMEOUT=${CONNECT_TIMEOUT:-15}
connect=(${VIRSH_URI:+--connect "$VIRSH_URI"}) there=(${TOOLSTACK:+--toolstack "$TOOLSTACK"})

action='' DOMU='' dry_run='' at='' other_is_off='' apart='' trust='' try=() # what is asked for
to='' how=() restore='' gate=() may=promote                            # of a move
work='' keeper='' document='' of='' disks=() peers=() evidence=/var/log/xen-backup # what is found

usage() {
	cat <<'END'
Usage: xen-failover promote|test DOMU [OPTION]...
       xen-failover move DOMU DOM0 [--for TIME] [--with-memory|--undo|--finish]
promote: start DOMU on this Dom0, from the standbys of its disks that are kept here.
test: start a copy of it, from snapshots of them and without network, wait until its
guest agent answers or its console says "login:", and remove it.
move: where DOMU runs: shut it off, copy it to DOM0 for a last time, and start it there;
with its memory it goes on there, and is not booted.

  --dry-run                   change nothing; say all that promote would
  --the-other-host-is-off     another Dom0 cannot be reached and is off: else it runs twice
  --disks-of-different-times  of both: for the night in which there is nothing better
  --trust-document            of both, once: this host may do all that the document says
  --at TIME                   of both: the latest point of its standbys that is not after it
  --for TIME                  how long a test waits, or a move for the guest: 90s, 5m, 1h
  --memory SIZE               so much has the copy
  --pattern RE                the sign of life: a line of the console, and nothing else
  --with-memory               a move does not shut DOMU down
  --undo, --finish            a move with memory was interrupted: go on here, or there
  -h, --help                  show this help

Exit status: 0 done, 1 not of one moment, or no sign of life; the others: xen-failover(8)
END
}

# log takes what is said, by us or a program, and tells syslog and whoever typed the command.
log() {
	local -A priority=([err]=3 [warning]=4 [info]=6)
	local line level
	trap '' TERM INT HUP
	while IFS= read -r line || [[ -n $line ]]; do
		level=${line%% *} level=${level:-warning} # a line may begin with a blank
		[[ -n $line && $line != 'info xb-'* ]] || continue # is for a log of more words
		[[ -z ${priority[$level]:-} ]] && level=warning || line=${line#* }
		line=${line//[^[:print:]]/?}
		[[ -n $dry_run ]] || echo "<${priority[$level]}>$line" |
			logger --prio-prefix -t "xen-failover[$$]" -p "$LOG_FACILITY.info" $LOG_OPTION 2>/dev/null || :
		printf '%s\n' "$line" >&2 || :
	done
}

log_mesg() { printf '%s %s\n' "$1" "${*:2}" >&2; } # LEVEL MESSAGE

die() { # STATUS MESSAGE...
	log_mesg err "### ERROR $1: ${*:2}"
	exit "$1"
}

leave() { # STATUS: nothing stays behind, whatever happened
	local pid snapshots=()
	trap '' TERM INT HUP
	for pid in $(jobs -p); do
		kill "$pid" && wait "$pid" || :
	done 2>/dev/null
	[[ ! -s $work/snapshots ]] || {
		mapfile -t snapshots <"$work/snapshots"
		xb-snap remove --words -- "${snapshots[@]}" && xb-snap prune --words >/dev/null || # of what was killed
			log_mesg err "### ERROR: DomU $DOMU: snapshots are left; later: xb-snap prune"
	}
	rm -rf "$work"
	exec 2>&"$terminal"
	wait "$logger" || :
	exit "$1"
}

# find_document has the document judged, and takes what was judged.
find_document() { # [--at-point]
	local target source when
	xb-locate --check-document --words --document-file "$work/$DOMU" "${connect[@]}" $trust $dry_run "${try[@]}" \
		${at:+"${1:---at}" "$at"} -- "$DOMU" >"$work/disks" ||
		die $? "DomU $DOMU: it cannot be started here by the document that is kept"
	for document in "$work/$DOMU".{xml,cfg}; do [[ ! -e $document ]] || break; done
	while IFS=$'\t' read -r target source when; do disks+=("$DOMU/$target=$source") of=$when; done <"$work/disks"
	((${#disks[@]})) || die 66 "DomU $DOMU: its document has no disk that is copied"
	[[ -z $at$of ]] || log_mesg info "## DomU $DOMU: its document as of ${of:-the last copy}"
}

# take has the standbys judged. Until release no run gets at them: as long as this script has the file $hold, which no
# program may inherit that stays, as xl's.
take() {
	local name source peer taken age image='' code=0
	mkfifo "$work/hold" "$work/said"
	xb-patch --promote --document "$document" $apart $dry_run ${at:+${dry_run:+--at "$at"}} "${there[@]}" \
		-- "${disks[@]}" <"$work/hold" >"$work/said" &
	keeper=$!
	exec {hold}>"$work/hold"
	while IFS=$'\t' read -r name source peer taken age image && [[ $name != ready ]]; do
		log_mesg info "## DomU $DOMU, disk ${name#*/}: $source is of $taken, $age old, from $peer: $image"
		[[ $peer = - || " ${peers[*]} " = *" $peer "* ]] || peers+=("$peer")
	done <"$work/said"
	[[ $name = ready ]] || {
		wait "$keeper" || code=$?
		keeper=''
		[[ $code = 83 && -n $dry_run ]] || die "$code" "DomU $DOMU: it cannot be started from its standbys here"
		log_mesg info "## DomU $DOMU: that would be done first"
	}
}

# release lets runs get at the standbys again.
release() {
	local pid=$keeper
	exec {hold}>&-
	keeper=''
	[[ -z $pid ]] || wait "$pid"
}

# nobody_runs_it refuses to go on where the DomU runs, or may; others is where the names of the other Dom0s are.
nobody_runs_it() { # [OPTION...]
	xb-locate --nowhere --words "${connect[@]}" "${there[@]}" --connect-timeout "$CONNECT_TIMEOUT" \
		${other_is_off:+--others-are-off} ${restore:+--moving "$restore"} "$@" -- "$DOMU" \
		>"$work/others" || exit $?
}

start() {
	local virsh=(virsh -q "${connect[@]}") files=$work/$DOMU.files.tar config=/etc/xen/$DOMU.cfg
	[[ ! -e $files ]] || tar -C / -xpf "$files" || die 74 "DomU $DOMU: UEFI variables or TPM cannot be put in place"
	if [[ $document = *.xml ]]; then
		"${virsh[@]}" define "$document" || die 69 "DomU $DOMU: libvirt does not take its document"
	elif [[ ! -e $config ]]; then
		install -m 600 "$document" "$config" || die 73 "cannot create $config"
	fi
	if [[ -n $restore ]]; then # by xl, see below
		xb-locate --arrival restore --words --moving "$restore" --document-file "$document" "${connect[@]}" \
			"${there[@]}" -- "$DOMU" {terminal}>&- ||
			die $? "DomU $DOMU: it cannot be restored from its memory"
	elif [[ $document = *.xml ]]; then
		"${virsh[@]}" start "$DOMU" || die 69 "DomU $DOMU: it does not start; mend it, then: virsh start $DOMU"
	else # xl leaves a program behind, which may hold no output open that somebody waits for, as ssh
		xl create "$document" 2>&"$terminal" {terminal}>&- || die 69 "DomU $DOMU: xl does not start it"
	fi
}

tell_what_is_left() {
	local others=() old="the old DomU is not started there; memory that is saved there would destroy newer disks"
	mapfile -t others <"$work/others"
	((${#others[@]} == 0)) || log_mesg info "## On ${others[*]}, before it gets at network again, so that $old:" \
		"virsh autostart --disable $DOMU; virsh managedsave-remove $DOMU; or with xl:" \
		"rm -f /etc/xen/auto/$DOMU* /var/lib/xen/save/$DOMU"
}

conf_dir() {
	local dir
	for dir in "$CONF_DIR" /etc/xen-backup.d /root/Works/Xen-Backup/xen-backup.d; do [[ ! -d $dir ]] || break; done
	echo "$dir"
}

# roll_back makes the standbys what they were. Where the document is that of the last copy, which is said, they differ.
roll_back() {
	nobody_runs_it --confs "$(conf_dir)" ${LOCAL_DOM0:+--local "$LOCAL_DOM0"}
	xb-snap rollback --words --at "$at" -- "${disks[@]#*=}" ||
		die $? "DomU $DOMU: its standbys cannot become what they were at $at"
	apart=--disks-of-different-times
}

promote() {
	local disk
	nobody_runs_it # here, to begin with
	find_document
	for disk in "${disks[@]}"; do
		[[ -n $dry_run ]] || xb-patch --recover "${there[@]}" -- "${disk#*=}" ||
			die $? "disk $disk cannot be had"
	done
	[[ -z $at || -n $dry_run ]] || roll_back
	take
	[[ -z $at ]] || log_mesg info "## DomU $DOMU: its disks as of $at or before; later: xb-snap list --points"
	nobody_runs_it ${dry_run:+--to-be-moved} --confs "$(conf_dir)" ${LOCAL_DOM0:+--local "$LOCAL_DOM0"} \
		${peers:+--dom0s "${peers[*]}"} {hold}>&-
	if [[ -n $dry_run ]]; then
		log_mesg info "## DomU $DOMU would be started here"
	else
		start {hold}>&-
		release || die 75 "DomU $DOMU runs here, but a run of xen-backup may have got at its disks meanwhile"
		[[ -n $restore ]] || log_mesg info "## DomU $DOMU runs here"
	fi
	tell_what_is_left
}

# take_snapshots takes those for a copy, all of one moment: no run gets at the standbys meanwhile.
take_snapshots() { # STANDBY|POINT...
	xb-snap create --words --writable --uri --owner "$$" --size "${SNAPSHOT_SIZE:-1G}" -- "$@" >"$work/snapshots" ||
		die $? "DomU $DOMU: no snapshots of its standbys can be taken"
	xb-snap guard --owner "$$" >/dev/null &
}

# test_copy starts a copy, and removes it.
test_copy() {
	local i time taken='' point points=() sources=() snapshots=() maps=() code=0
	find_document --at-point
	sources=("${disks[@]#*=}")
	if [[ -n $at ]]; then # whatever the standbys are now
		xb-snap list --points --words --at "$at" -- "${sources[@]}" >"$work/points" ||
			die $? "DomU $DOMU: there is nothing to test that was taken at $at"
		while IFS=$'\t' read -r _ time _ _ point; do points+=("$point") taken=$time; done <"$work/points"
		log_mesg info "## DomU $DOMU: its disks as of $taken"
		take_snapshots "${points[@]}"
	else
		take
		take_snapshots "${sources[@]}" {hold}>&-
		release || die 75 "DomU $DOMU: a run of xen-backup may have got at its disks meanwhile"
	fi
	mapfile -t snapshots <"$work/snapshots"
	for i in "${!sources[@]}"; do maps+=(--map "${sources[i]}=${snapshots[i]}"); done
	chmod 711 "$work" # QEMU may be somebody else
	xb-locate --words --copy-as "$DOMU.xb-test" --xml "$document" --document-file "$work/copy" "${maps[@]}" \
		"${connect[@]}" --try "${try[@]}" --evidence "$evidence/$DOMU" >"$work/sign" & # a signal ends the wait
	wait "$!" || code=$?
	((code == 0)) || die "$code" "DomU $DOMU: its test copy shows no life; what it does show: $evidence/$DOMU.*"
	log_mesg info "## DomU $DOMU: $(<"$work/sign"), so it starts from its standbys; more: $evidence/$DOMU.*"
}

move() {
	local code=0 # a signal is answered by what is done, which undoes it
	xb-copy --move --domu "$DOMU" --to "$to" --confs "$(conf_dir)" "${try[@]}" "${how[@]}" \
		--connect-timeout "$CONNECT_TIMEOUT" ${VIRSH_URI:+--uri "$VIRSH_URI"} "${there[@]}" \
		</dev/null {terminal}>&- &
	wait "$!" || code=$?
	exit "$code"
}

misuse() { # before there is a log
	echo "xen-failover: $1; see --help" >&2
	exit 64
}

options() { # WORD...
	local word='^[A-Za-z0-9_.+:@][A-Za-z0-9_.+:@-]*$' operands=()
	local time='^[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}Z$'
	while (($#)); do
		case $1 in
		--dry-run) dry_run=--dry-run ;;
		--the-other-host-is-off) other_is_off=1 ;;
		--disks-of-different-times) apart=--disks-of-different-times ;;
		--trust-document) trust=--trust-document ;;
		--at) [[ ${2:-} =~ $time ]] && at=$2 && shift || misuse "--at wants a time, as 2026-11-26T23:47:28Z" ;;
		--for | --memory | --pattern) [[ -n ${2:-} ]] && try+=("$1=$2") && shift || misuse "$1 needs a value" ;;
		--with-memory | --undo | --finish) how+=("$1") ;;
		--restore) [[ ${2:-} =~ ^[a-z2-7]{26}$ ]] && restore=$2 may=memory && shift || misuse "bad move" ;;
		--allow | --peer) gate+=("$1" "${2:-}") && shift ;; # xb-gate's
		-h | --help) usage || exit 74 && exit 0 ;;
		-*) misuse "unknown option $1" ;;
		*) [[ $1 =~ $word ]] && operands+=("$1") || misuse "bad name: $1" ;;
		esac
		shift
	done
	action=${operands[0]:-} DOMU=${operands[1]:-} to=${operands[2]:-}
	case $action:${#operands[@]} in
	promote:2) ((${#how[@]} == 0)) || misuse "${how[0]} is for move"
		[[ -z $at || -z $restore ]] || misuse "memory goes on with the disks that it was saved with"
		((${#try[@]} == 0)) || misuse "${try[0]%%=*} is for test" ;;
	test:2) [[ -z $dry_run$other_is_off$restore${how[*]} ]] || misuse "test does not take that option" ;;
	move:3) [[ -z $dry_run$at$apart$trust$restore && ${try[*]} != *--[mp]* ]] || misuse "move takes no such option"
		[[ -z $other_is_off ]] || how+=(--the-other-host-is-off) ;;
	*) misuse "want promote DOMU, test DOMU or move DOMU DOM0" ;;
	esac
}

main() {
	local dir
	options "$@"
	((${#gate[@]} == 0)) || xb-locate --may "$may" "${gate[@]}" -- "$DOMU" || exit
	trap '' PIPE
	for dir in "$RUN_DIR"/xen-failover.[0-9]*; do # of those that were killed
		[[ ! -d $dir || -d /proc/${dir##*.} && ${dir##*.} != "$$" ]] || rm -rf "$dir"
	done
	exec {terminal}>&2 2> >(log)
	logger=$!
	work=$RUN_DIR/xen-failover.$$
	trap 'leave "$?"' EXIT
	trap 'exit 143' TERM INT HUP
	mkdir -m 700 "$work" || die 73 "cannot create a directory in $RUN_DIR"
	[[ $action != test ]] || {
		exec 9>>"$RUN_DIR/xen-failover.$DOMU.lock"
		flock -n 9 || die 75 "DomU $DOMU: another test of it is at work"
		action=test_copy
	}
	"$action" 9>&- # bash keeps the lock for itself: no program has it that may stay behind
}

main "$@"; exit
