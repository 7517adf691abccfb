#!/bin/bash
# lab: campaign
# A power cut of dom0b. On xblab0, a disk without a cache, all that was acknowledged is there. On xblab1, a
# disk with a volatile cache, only what was flushed, or what the cache happened to write out.
mklv dom0b xblab0/vm1 8M
mklv dom0b xblab1/vm1 12M
statefs dom0b xblab1
# third SKIP COMMAND: the 4 MiB of dom0b's xblab1/vm1 from SKIP on
third() { onb "dd if=/dev/xblab1/vm1 bs=4M skip=$1 count=1 iflag=direct status=none | $2"; }

fill dom0b /dev/xblab0/vm1
# shellcheck disable=SC2016 # for dom0b's shell
onb 'put() { dd if=/dev/urandom of=/dev/xblab1/vm1 bs=4M seek=$1 count=1 oflag=direct iflag=fullblock status=none; }
	blkdiscard -z /dev/xblab1/vm1
	put 0
	cd /var/lib/xen-backup; echo kept >new; sync new; mv new kept; sync .
	put 1; echo lost >lost'
spill dom0b
onb 'dd if=/dev/urandom of=/dev/xblab1/vm1 bs=4M seek=2 count=1 oflag=direct iflag=fullblock status=none'
flushed=$(third 0 sha256sum)
half=$(third 1 sha256sum)
ssh dom0b 'for i in {0..1023}; do
	dd if=/dev/zero of=/dev/xblab0/vm1 bs=8k seek=$i count=1 oflag=direct status=none && echo $i; done' >acked </dev/null &
writer=$!
until [ "$(wc -l <acked)" -ge 20 ]; do sleep 0.1; done

crashb
kill $writer 2>/dev/null || true
wait $writer || true

last=$(tail -n 1 acked)
equal "$(onb "dd if=/dev/xblab0/vm1 bs=8k count=$((last + 1)) iflag=direct status=none | tr -d '\0' | wc -c")" 0 \
	"number of acknowledged bytes that are lost"
equal "$(third 0 sha256sum)" "$flushed" "what was flushed"
third 2 'cmp -n 4194304 - /dev/zero'
status 1 third 1 'cmp -n 4194304 - /dev/zero'
[ "$(third 1 sha256sum)" != "$half" ] || fail "all that was to reach the disk by half is there"
equal "$(onb ls /var/lib/xen-backup | xargs)" "kept lost+found" "the state folder's content"
