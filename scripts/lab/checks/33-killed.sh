#!/bin/bash
# lab: campaign
# The wrapper is ended at seven moments: after TERM nothing is left, after KILL the next run clears it all away. A second run
# at the same time does nothing.
for vm in a b; do
	mklv dom0a xblab0/$vm 4M
	mklv dom0b xblab0/$vm 4M
	fill dom0a /dev/xblab0/$vm
done
testdomain dom0a web1 /dev/xblab0/a /dev/xblab0/b
conf dom0a 1 DOMU=web1 'DOM0S="dom0a dom0b"' PAUSE=auto BWLIMIT=1M
pausable
touch /run/xen-backup.sh.pid # row "pid file"
write() { for vm in a b; do dd if=/dev/urandom of=/dev/xblab0/$vm bs=64k seek=$((RANDOM % 48)) count=16 oflag=direct status=none; done; }
backup dom0a
write
start=${EPOCHREALTIME/./}
backup dom0a
took=$((${EPOCHREALTIME/./} - start)) # microseconds
echo "a run takes $((took / 1000)) ms"

echo "--- a second run at the same time"
: >/run/syslog
start
until grep -q 'checking DomU' /run/syslog; do sleep 0.1; done
status 75 backup dom0a
logged dom0a '^local3.info ## another process is running: [0-9]+, since 20.*, at DomU web1$'
wait "$RUN"

# end SIGNAL PERCENT: a run gets the signal after this part of its time.
end() {
	local got=0 at
	write
	start
	sleep "$(printf '%d.%06d' $((took * $2 / 100000000)) $((took * $2 / 100 % 1000000)))"
	at=${EPOCHREALTIME/./}
	if [ "$1" = KILL ]; then
		kill_run
	else
		kill -TERM "$RUN" || true # it may have ended
		wait "$RUN" || got=$?
		[ $got = 143 ] || [ $got = 0 ] || fail "status $got"
		nothing_left
	fi
	echo "$1 at $2 %: status $got after $(((${EPOCHREALTIME/./} - at) / 1000)) ms; last word: $(sed -n '$s/.*\]: //p' /run/syslog)"
}
for moment in KILL:10 TERM:20 KILL:35 TERM:60 KILL:70 TERM:85; do end ${moment/:/ }; done
conf dom0a 1 DOMU=web1 'DOM0S="dom0a dom0b"' BWLIMIT=64K
: >/run/syslog
end TERM 150 # a copy that has long to go
logged dom0a '^local3.err ### ERROR: the run was stopped by a signal$'
conf dom0a 1 DOMU=web1 'DOM0S="dom0a dom0b"'
backup dom0a
same /dev/xblab0/a
same /dev/xblab0/b
nothing_left
for _ in {1..6000}; do if running web1; then break; fi; sleep 0.1; done
running web1
