#!/bin/bash
# lab: campaign
# udev, which opens each device after it is closed, is no user; with it all others are found just the same.
# lab: udev
modprobe loop
inuse.test -test.v -test.run 'LVUnused|LVMounted|LVOpenByProcess|OpenForAMoment'
