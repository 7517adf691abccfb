#!/bin/bash
# lab: campaign
# Row "a mix of old and new": the standby's host loses its power, or its xb-patch is killed: the standby is the old image, the new one, or flagged, and
# then the next run finishes it. The disk has a volatile cache, so that a flush that is missing would show.
statefs dom0b xblab1
mklv dom0a xblab0/vm1 4M
mklv dom0b xblab1/vm1 4M
fill dom0a /dev/xblab0/vm1
testdomain dom0a web1 /dev/xblab0/vm1
rule='MAP="dom0b:/dev/xblab0/vm1=/dev/xblab1/vm1"'
conf dom0a 1 DOMU=web1 'DOM0S="dom0a dom0b"' "$rule" FIRST_COPY=in-place
write() { dd if=/dev/urandom of=/dev/xblab0/vm1 bs=1M seek="$1" count=2 oflag=direct iflag=fullblock status=none; }
phase() { onb xb-patch --state /dev/xblab1/vm1 | sed 's/.*"phase":"\([a-z]*\)".*/\1/'; }

echo "--- when a first copy in place has succeeded, it is there"
backup dom0a
crashb
same /dev/xblab0/vm1 /dev/xblab1/vm1
equal "$(phase)" clean "the phase"

echo "--- so is a later one, where the cache was written out by half"
write 1
backup dom0a
spill dom0b
crashb
same /dev/xblab0/vm1 /dev/xblab1/vm1
equal "$(phase)" clean "the phase"

echo "--- while the delta arrives: the old image"
old=$(digest dom0b /dev/xblab1/vm1)
write 2
conf dom0a 1 DOMU=web1 'DOM0S="dom0a dom0b"' "$rule" BWLIMIT=64K
start
onb 'until [ -s /var/lib/xen-backup/spool/*.part ]; do sleep 0.1; done'
spill dom0b
power off
kill -TERM "$RUN" # it waits for dom0b to answer
status 143 wait "$RUN"
power on
nothing_left
equal "$(digest dom0b /dev/xblab1/vm1)" "$old" "the image"
equal "$(phase)" clean "the phase"

echo "--- xb-patch is killed in mid-apply, then the power is cut in mid-recovery"
conf dom0a 1 DOMU=web1 'DOM0S="dom0a dom0b"' "$rule"
slow dom0b xblab1/vm1
start
onb 'until grep -q applying /var/lib/xen-backup/*.json; do sleep 0.05; done; pkill -KILL -x xb-patch'
status 3 wait "$RUN"
equal "$(phase)" applying "the phase"
write 0
start
onb 'until pgrep -f "[x]b-patch .*--prepare"; do sleep 0.05; done; sleep 1'
spill dom0b
power off
kill -TERM "$RUN"
status 143 wait "$RUN"
power on
equal "$(phase)" applying "the phase"
backup dom0a
logged dom0a '### remote Dom0 dom0b: finished the interrupted apply on /dev/xblab1/vm1$'
same /dev/xblab0/vm1 /dev/xblab1/vm1
equal "$(phase)" clean "the phase"
nothing_left
