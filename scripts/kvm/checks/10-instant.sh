#!/bin/bash
# Copies of a guest of two disks that writes all the time are of one instant: the first one and later ones, with a pause
# and without.
fresh hasty
pauses=(no)
! campaign || pauses+=(auto no)
for pause in "${pauses[@]}"; do
	conf dom0a PAUSE="$pause"
	goes_on dom0a
	backup dom0a
	instant dom0b
done
[[ $(on dom0a virsh domstate domu1) = running ]]
goes_on dom0a
