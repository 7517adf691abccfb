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
connect=(${VIRSH_URI:+--connect "$VIRSH_URI"})
toolstack=("${connect[@]}" ${TOOLSTACK:+--toolstack "$TOOLSTACK"})
ssh=(ssh -T -o BatchMode=yes -o ConnectTimeout="$CONNECT_TIMEOUT" -o ServerAliveInterval=5 -o ServerAliveCountMax=3)

action='' DOMU='' dry_run='' other_is_off='' apart='' trust=''   # what is asked for
patience=300 memory=() pattern='login:' evidence=/var/log/xen-backup # of a test
work='' keeper='' document='' disks=() peers=() others=() copy='' snapshots=()

usage() {
	cat <<'END'
Usage: xen-failover promote|test DOMU [OPTION]...
promote: start DOMU on this Dom0, from the standbys of its disks that are kept here.
test: start a copy of it, from snapshots of them and without network, wait until its
guest agent answers or its console says RE, and remove it.

  --dry-run                   change nothing; say all that promote would
  --the-other-host-is-off     another Dom0 cannot be reached and is off: else it runs twice
  --disks-of-different-times  of both: for the night in which there is nothing better
  --trust-document            of both, once: this host may do all that the document says
  --for TIME                  how long a test waits: 90s, 5m, 1h
  --memory SIZE               so much has the copy
  --pattern RE                a sign of life (login:)
  -h, --help                  show this help

Exit status: 0 done, 1 not of one moment, or no sign of life; the others: xen-failover(8)
END
}

log_mesg() { # LEVEL MESSAGE
	local -A priority=([err]=3 [warning]=4 [info]=6)
	local text=${*:2} && text=${text//[^[:print:]]/?}
	[[ -n $dry_run ]] || echo "<${priority[$1]}>$text" |
		logger --prio-prefix -t "xen-failover[$$]" -p "$LOG_FACILITY.info" $LOG_OPTION 2>/dev/null || :
	printf '%s\n' "$text" >&2 || :
}

die() { # STATUS MESSAGE...
	log_mesg err "### ERROR $1: ${*:2}"
	exit "$1"
}

leave() { # STATUS
	trap '' TERM INT HUP
	[[ -z $keeper ]] || kill "$keeper" 2>/dev/null || :
	[[ -z $copy ]] || remove_copy || :
	[[ -z $work ]] || rm -rf "$work"
	exit "$1"
}

# find_document has the document judged, and takes what was judged.
find_document() {
	local target source
	xb-locate --check-document --document-file "$work/$DOMU" "${connect[@]}" $trust -- "$DOMU" >"$work/disks" ||
		die $? "DomU $DOMU: it cannot be started here by the document that is kept"
	for document in "$work/$DOMU".{xml,cfg}; do [[ ! -e $document ]] || break; done
	while IFS=$'\t' read -r target source; do disks+=("$DOMU/$target=$source"); done <"$work/disks"
	((${#disks[@]})) || die 66 "DomU $DOMU: its document has no disk that is copied"
}

finish_applies() {
	local disk
	for disk in "${disks[@]}"; do
		xb-patch --recover ${TOOLSTACK:+--toolstack "$TOOLSTACK"} -- "${disk#*=}" || die $? "disk $disk cannot be had"
	done
}

# take has the standbys judged. Until release no run gets at them: as long as this script has the file $hold, which no
# program may inherit that stays, as xl's.
take() {
	local name source peer taken age image='' code=0
	mkfifo "$work/hold" "$work/said"
	xb-patch --promote --document "$document" $apart $dry_run ${TOOLSTACK:+--toolstack "$TOOLSTACK"} -- "${disks[@]}" \
		<"$work/hold" >"$work/said" &
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

# find_others finds all other Dom0s that may run the DomU: those of its conf file here, and those it came from.
find_others() {
	local dir dom0 names=''
	for dir in "$CONF_DIR" /etc/xen-backup.d /root/Works/Xen-Backup/xen-backup.d; do [[ -z $dir || ! -d $dir ]] || break; done
	mkdir "$work/settings"
	IFS=$'\t' read -r _ _ _ _ names _ < <(xb-locate --plan --confs "$dir" --settings "$work/settings" "${toolstack[@]}" \
		${LOCAL_DOM0:+--local "$LOCAL_DOM0"} "$DOMU") || :
	for dom0 in ${names/#-/}; do others+=("$dom0"); done
	((${#others[@]})) || log_mesg warning "## DomU $DOMU: no conf file in $dir would copy it from here: write one, with DOM0S"
	for dom0 in "${peers[@]}"; do [[ " ${others[*]} " = *" $dom0 "* ]] || others+=("$dom0"); done
}

is_active() { # DOM0, or - for this one: says by its status whether the DomU runs there
	local code=0 said=''
	if [[ $1 = - ]]; then
		said=$(xb-locate --active "${toolstack[@]}" "$DOMU") || code=$?
	else
		said=$(timeout -k 5 $((CONNECT_TIMEOUT + 60)) "${ssh[@]}" -- "$1" xb-locate --active \
			${TOOLSTACK:+--toolstack "$TOOLSTACK"} "$DOMU" </dev/null) || code=$?
	fi
	[[ $code$said != 0no ]] || return 1
	[[ $code$said = 0yes ]] || return $((code > 1 ? code : 69))
}

# nobody_runs_it refuses to go on where the DomU runs, or may.
nobody_runs_it() {
	local dom0 code
	for dom0 in - "${others[@]}"; do
		code=0
		is_active "$dom0" || code=$?
		case $code in
		0) die 81 "DomU $DOMU runs on ${dom0/#-/this Dom0}" ;;
		1) ;;
		255)
			[[ -n $other_is_off ]] || die 69 "Dom0 $dom0 cannot be reached. Make sure that it is off; then: --the-other-host-is-off"
			log_mesg warning "## Dom0 $dom0 cannot be reached: off, as whoever started this says" ;;
		124 | 137) die 69 "Dom0 $dom0 is not off, but does not say whether DomU $DOMU runs there: switch it off" ;;
		*) die "$((code == 75 ? 75 : 69))" "Dom0 ${dom0/#-/of this name}: it cannot be told whether DomU $DOMU runs there" ;;
		esac
	done
}

start() {
	local virsh=(virsh -q "${connect[@]}")
	[[ ! -e $work/$DOMU.files.tar ]] || tar -C / -xpf "$work/$DOMU.files.tar" ||
		die 74 "DomU $DOMU: its UEFI variables or TPM cannot be put in place"
	if [[ $document = *.xml ]]; then
		"${virsh[@]}" define "$document" || die 69 "DomU $DOMU: libvirt does not take its document"
		"${virsh[@]}" start "$DOMU" || die 69 "DomU $DOMU: it does not start here; mend that, then: virsh start $DOMU"
	else
		[[ -e /etc/xen/$DOMU.cfg ]] || install -m 600 "$document" "/etc/xen/$DOMU.cfg" || die 73 "cannot create /etc/xen/$DOMU.cfg"
		xl create "$document" || die 69 "DomU $DOMU: xl does not start it"
	fi
}

tell_what_is_left() {
	local dom0
	for dom0 in "${others[@]}"; do
		log_mesg info "## On $dom0, before it gets at network again, so that the old DomU is not started there; memory" \
			"that is saved there would destroy newer disks: virsh autostart --disable $DOMU; virsh managedsave-remove" \
			"$DOMU; or with xl: rm -f /etc/xen/auto/$DOMU* /var/lib/xen/save/$DOMU"
	done
}

promote() {
	nobody_runs_it # here, to begin with
	find_document
	[[ -n $dry_run ]] || finish_applies
	take
	find_others
	nobody_runs_it {hold}>&-
	if [[ -n $dry_run ]]; then
		log_mesg info "## DomU $DOMU would be started here"
	else
		start {hold}>&-
		release || die 75 "DomU $DOMU runs here, but a run of xen-backup may have got at its disks meanwhile"
		log_mesg info "## DomU $DOMU runs here"
	fi
	tell_what_is_left
}

copy_is() { # VIRSH-WORD XL-WORD [ARGUMENT...]: asks the toolstack of the copy
	case $document in
	*.xml) timeout -k 5 60 virsh -q "${connect[@]}" "$1" "$copy" "${@:3}" ;;
	*) timeout -k 5 60 xl "$2" "$copy" ;;
	esac 2>>"$work/toolstack" </dev/null
}

remove_copy() {
	local file
	copy_is destroy destroy >/dev/null || :
	for file in log ppm; do
		[[ ! -s $work/copy.$file ]] || install -D -m 600 "$work/copy.$file" "$evidence/$DOMU.$file" || :
	done
	((${#snapshots[@]} == 0)) || xb-snap remove -- "${snapshots[@]}" ||
		log_mesg err "### ERROR: DomU $DOMU: left of its test copy: ${snapshots[*]}"
	snapshots=() copy=''
}

# snapshot_standbys takes snapshots for the copy, all of one moment: no run gets at the standbys meanwhile.
snapshot_standbys() {
	copy=$DOMU.xb-test
	copy_is destroy destroy >/dev/null || : # of a test that was killed
	xb-snap create --writable --uri --owner "$$" --size "${SNAPSHOT_SIZE:-1G}" -- "${disks[@]#*=}" >"$work/snapshots" ||
		die $? "DomU $DOMU: no snapshots of its standbys can be taken"
	mapfile -t snapshots <"$work/snapshots"
}

start_copy() {
	local i sources=("${disks[@]#*=}") maps=()
	for i in "${!sources[@]}"; do maps+=(--map "${sources[i]}=${snapshots[i]}"); done
	xb-locate --copy-as "$copy" --xml "$document" --document-file "$work/copy" "${maps[@]}" "${memory[@]}" ||
		die $? "DomU $DOMU: its document cannot be made one of a test copy"
	chmod 711 "$work" # QEMU may be somebody else
	xb-snap guard --owner "$$" >/dev/null &
	case $document in
	*.xml) virsh -q "${connect[@]}" create "$work/copy.xml" ;;
	*) xl create "$work/copy.cfg" ;;
	esac || die 69 "DomU $DOMU: its test copy does not start"
	[[ -s $work/copy.xml && $(<"$work/copy.xml") != *"type='xen'"* ]] || {
		mkfifo "$work/never" # xl's console ends with its input
		xl console "$copy" <>"$work/never" >"$work/copy.log" 2>/dev/null &
	}
}

lives() {
	local sign='' end=$((SECONDS + patience))
	while ((SECONDS < end)) && copy_is domid domid >/dev/null; do
		if grep -aqsE -- "$pattern" "$work/copy.log"; then
			sign="its test copy says: $(grep -aE -m 1 -- "$pattern" "$work/copy.log")"
		elif [[ $document = *.xml ]] && copy_is qemu-agent-command - '{"execute":"guest-ping"}' --timeout 2 >/dev/null; then
			sign="the guest agent of its test copy answers"
		fi
		[[ -z $sign ]] || { log_mesg info "## DomU $DOMU: $sign" && return; }
		sleep 1
	done
	return 1
}

test_copy() {
	local code=0
	exec {lock}>>"$RUN_DIR/xen-failover.$DOMU.lock"
	flock -n "$lock" || die 75 "DomU $DOMU: another test of it is at work"
	find_document
	take
	snapshot_standbys {hold}>&- {lock}>&-
	release || die 75 "DomU $DOMU: a run of xen-backup may have got at its disks meanwhile"
	start_copy {lock}>&-
	lives {lock}>&- || code=1
	[[ $document != *.xml ]] || copy_is screenshot - "$work/copy.ppm" >/dev/null || :
	remove_copy {lock}>&-
	((code == 0)) || die 1 "DomU $DOMU: no sign of life of its test copy within $patience s; what it showed: $evidence/$DOMU.*"
	log_mesg info "## DomU $DOMU: it starts from its standbys; what it showed: $evidence/$DOMU.*"
}

misuse() { die 64 "xen-failover: $1; see --help"; }

options() { # WORD...
	local word='^[A-Za-z0-9_.+:@][A-Za-z0-9_.+:@-]*$' operands=()
	local -A unit=([s]=1 [m]=60 [h]=3600)
	while (($#)); do
		case $1 in
		--dry-run) dry_run=--dry-run ;;
		--the-other-host-is-off) other_is_off=1 ;;
		--disks-of-different-times) apart=--disks-of-different-times ;;
		--trust-document) trust=--trust-document ;;
		--for) [[ ${2:-} =~ ^([0-9]{1,6})([smh]?)$ ]] || misuse "--for needs a time, as 5m"
			patience=$((10#${BASH_REMATCH[1]} * ${unit[${BASH_REMATCH[2]:-s}]})) && shift ;;
		--memory) [[ ${2:-} =~ ^[0-9]+[KMGT]?$ ]] && memory=(--memory "$2") && shift || misuse "--memory needs a size, as 1G" ;;
		--pattern) [[ -n ${2:-} ]] && pattern=$2 && shift || misuse "--pattern needs a regular expression" ;;
		-h | --help) usage || exit 74 && exit 0 ;;
		-*) misuse "unknown option $1" ;;
		*) [[ $1 =~ $word ]] && operands+=("$1") || misuse "bad name: $1" ;;
		esac
		shift
	done
	((${#operands[@]} == 2)) || misuse "want promote or test, and a DomU"
	action=${operands[0]} DOMU=${operands[1]}
	[[ $action = promote || $action = test ]] || misuse "unknown word $action"
	[[ $action = promote || -z $dry_run$other_is_off ]] || misuse "--dry-run and --the-other-host-is-off are for promote"
}

main() {
	options "$@"
	trap '' PIPE
	work=$RUN_DIR/xen-failover.$$
	mkdir -m 700 "$work" || die 73 "cannot create a directory in $RUN_DIR"
	trap 'leave "$?"' EXIT
	trap 'exit 143' TERM INT HUP
	"${action/#test/test_copy}"
}

main "$@"
