#!/bin/bash
# pair: campaign
# Live migration with its storage: while it runs no copy is made (75), for both hosts have a part of domu1. After one that
# was aborted the standby is no old image any more (80), and after one that went well the image left behind is refused
# till somebody says that it may go (80), for had the storage not been copied, it would be the only good one.
fresh
backup dom0a
migrate() {
	on dom0a virsh -q migrate --live --unsafe --persistent --copy-storage-all --bandwidth "$1" \
		--migrateuri tcp://dom0b --disks-uri tcp://dom0b:49200 domu1 qemu+ssh://dom0b/system
}

# cure: the one command that the words of the last run give
cure() {
	local words
	words=$(sed -n 's/.* on \(dom0[ab]\): xen-backup.sh \([^;]*\).*/\1 \2/p' mail | sort -u)
	# shellcheck disable=SC2086
	backup $words
}
on dom0b cp --reflink=always /srv/data.img /srv/old.img

echo "--- while it runs"
migrate 1 &
until_so on dom0b bash -c 'virsh domstate --reason domu1 | grep migrating' 2>/dev/null
while on dom0b cmp -s /srv/data.img /srv/old.img; do sleep 0.5; done
status 3 backup dom0a
grep '^### ERROR 75: ' mail
status 0 backup dom0b

echo "--- after one that was aborted"
on dom0a virsh domjobabort domu1
status 1 wait $!
goes_on dom0a
status 3 backup dom0a
grep '^### ERROR 80: ' mail
cure
instant dom0b

echo "--- after one that went well"
migrate 1000
goes_on dom0b
[[ $(on dom0a virsh domstate --reason domu1) = 'shut off (migrated)' ]]
backup dom0a
status 3 backup dom0b
grep '^### ERROR 80: ' mail
grep 'domu1 was migrated away from here' mail
cure
instant dom0a
goes_on dom0b
backup dom0b
instant dom0a
