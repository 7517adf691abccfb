#!/bin/bash
# pair: campaign
# Below a snapshot of an image whatever the guest rewrites takes new room. Before the file system is full the snapshot is
# given up, and the run says so (82): the guest goes on and never sees an error.
fresh rewrite
conf dom0a SNAPSHOT_SIZE=64M BWLIMIT=8M
leave dom0a 400
status 3 backup dom0a
[[ $(on dom0a virsh domstate --reason domu1) = 'running (booted)' ]]
grep '^### ERROR 82: ' mail
goes_on dom0a
! grep 'CANNOT WRITE' "$(console dom0a)"
[[ -z $(on dom0a xb-snap list) ]]
