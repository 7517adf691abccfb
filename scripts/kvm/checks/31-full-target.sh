#!/bin/bash
# pair: campaign
# A standby whose host has no room for what has changed stays the old image (73), and the next run with room makes it the
# new one.
fresh
backup dom0a
instant dom0b
old=$(on dom0b sha256sum /srv/root.img)
# in holes of the standby, where it takes room
on dom0a virsh -q destroy domu1
on dom0a bash -ec 'mount -o loop /srv/root.img /mnt; head -c 200M /dev/urandom >/mnt/new; umount /mnt'
on dom0a virsh -q start domu1
goes_on dom0a
leave dom0b 100
status 3 backup dom0a
grep '^### ERROR 73: ' mail
[[ $(on dom0b sha256sum /srv/root.img) = "$old" ]]
on dom0b rm /srv/ballast
backup dom0a
instant dom0b
