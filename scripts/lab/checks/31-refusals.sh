#!/bin/bash
# lab: campaign
# What must stop a copy stops it, with its status, and leaves the standby as it was: an overflowed snapshot, a standby
# that is in use or too small or was changed, a DomU that runs on both hosts, a toolstack that does not answer.
for vm in a b c; do
	mklv dom0a xblab0/$vm 8M
	mklv dom0b xblab0/$vm 4M
done
onb 'lvextend -q -L 8M xblab0/a; lvextend -q -L 8M xblab0/b'
mkfs.ext4 -q /dev/xblab0/a
testdomain dom0a web1 /dev/xblab0/a /dev/xblab0/b
testdomain dom0a web2 /dev/xblab0/c
conf dom0a 1 DOMU=web1 'DOM0S="dom0a dom0b"' FIRST_COPY=in-place SNAPSHOT_SIZE=4M BWLIMIT=2M
backup dom0a web1
old=$(digest dom0b /dev/xblab0/b)

echo "--- a snapshot overflows" # row "snapshot overflow"
conf dom0a 1 DOMU=web1 'DOM0S="dom0a dom0b"' FIRST_COPY=in-place SNAPSHOT_SIZE=4M BWLIMIT=512K # 12 s, for the write below
dd if=/dev/urandom of=/dev/xblab0/b bs=1M count=6 oflag=direct status=none
: >/run/syslog
backup dom0a web1 >/dev/null &
until grep -q 'sync.*xblab0/b' /run/syslog; do sleep 0.1; done
dd if=/dev/urandom of=/dev/xblab0/b bs=1M count=6 oflag=direct status=none
status 3 wait $!
logged dom0a '^local3.err #### DomU web1, disk xvdb, dom0b:/dev/xblab0/b: xb-delta: .*snapshot.* invalid'
logged dom0a '^local3.err ### ERROR 82: DomU web1, disk xvdb: /dev/xblab0/b was not copied to dom0b:/dev/xblab0/b: '
equal "$(digest dom0b /dev/xblab0/b)" "$old" "the standby of the overflowed one"
same /dev/xblab0/a
nothing_left

echo "--- standbys in use" # row "target mounted while its copy is written"
dd if=/dev/urandom of=/dev/xblab0/a bs=1k count=1 oflag=dsync status=none # where ext4 has nothing
onb 'mount -o ro,noload /dev/xblab0/a /mnt; dmsetup create xblabdev-above --table "0 8 linear /dev/xblab0/b 0"'
status 3 backup dom0a --dry-run web1
grep -q '^### ERROR 75: DomU web1, disk xvda: dom0b:/dev/xblab0/a cannot be written to$' mail
grep -q '^### ERROR 75: DomU web1, disk xvdb: dom0b:/dev/xblab0/b cannot be written to$' mail
status 3 backup dom0a web1
logged dom0a '### ERROR 75: .*dom0b:/dev/xblab0/a cannot be written to$'
logged dom0a 'dom0b:/dev/xblab0/a: xb-patch: /dev/xblab0/a is in use: mounted on /mnt$'
logged dom0a '### ERROR 75: .*dom0b:/dev/xblab0/b cannot be written to$'
logged dom0a 'dom0b:/dev/xblab0/b: xb-patch: /dev/xblab0/b is in use: held by .*xblabdev-above'
onb 'umount /mnt; dmsetup remove xblabdev-above'
equal "$(digest dom0b /dev/xblab0/b)" "$old" "the standby that was in use"

echo "--- the DomU runs on dom0b too"
testdomain dom0b web1 /dev/xblab0/a /dev/xblab0/b
: >/run/syslog
status 3 backup dom0a web1
logged dom0a '^local3.err ### ERROR 81: DomU web1: it runs on dom0b too: nothing is touched$'
! grep -q 'take snapshot' /run/syslog || fail "snapshots were taken"
equal "$(digest dom0b /dev/xblab0/b)" "$old" "the standby of the DomU that runs twice"
RUNSTATE=5 testdomain dom0b web1 /dev/xblab0/a /dev/xblab0/b # as it stays from now on

echo "--- too small, cannot ask, another's: the others go on"
conf dom0a 1 DOMU=web1 'DOM0S="dom0a dom0b"' BWLIMIT=20M
conf dom0a 2 DOMU=web2 'DOM0S="dom0a dom0b"'
status 3 backup dom0a VIRSH_URI=test:///nowhere web2 # row "virsh domstate failing"
logged dom0a '### ERROR 69: DomU web2: it is not backed up$'
conf dom0a 3 DOMU=web2 'DOM0S="dom0a dom0b"' MAP=dom0b:/dev/xblab0/c=/dev/xblab0/a
status 3 backup dom0a
logged dom0a '### ERROR 65: DomU web2, disk xvda: dom0b:/dev/xblab0/c cannot be written to$'
logged dom0a '/dev/xblab0/c is too small: .*; on dom0b: lvextend -L 8388608b /dev/xblab0/c$'
logged dom0a "### ERROR 78: DomU web2: /dev/xblab0/c would overwrite dom0b:/dev/xblab0/a of web1 /dev/xblab0/a$"
logged dom0a '/dev/xblab0/a belongs to another domain of this host: web1 '
same /dev/xblab0/a
same /dev/xblab0/b
onb "$(sed -n 's/.* on dom0b: //p' mail)"
rm /etc/xen-backup.d/3.conf
backup dom0a web2
same /dev/xblab0/c
nothing_left

echo "--- a standby that was changed, and a conf file that uses the script's own names"
onb 'dd if=/dev/urandom of=/dev/xblab0/c bs=4k count=1 oflag=direct status=none'
old=$(digest dom0b /dev/xblab0/c)
conf dom0a 2 DOMU=web2 'DOM0S="dom0a dom0b"' force=1 dry_run=1 final=1 only=none run=true status=0
status 3 backup dom0a web2
logged dom0a '### ERROR 80: DomU web2, disk xvda: /dev/xblab0/c was not copied'
equal "$(digest dom0b /dev/xblab0/c)" "$old" "the standby that was changed"
conf dom0a 2 DOMU=web2 'DOM0S="dom0a dom0b"'
backup dom0a --force-diverged web2
same /dev/xblab0/c
nothing_left
