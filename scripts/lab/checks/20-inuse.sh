#!/bin/bash
# A device's users are found and named: LVs, snapshots, thin volumes and loop devices that are mounted, held,
# swapped on or open. These are the tests of internal/blockdev, on devices of their own.
# lab: limit 200
modprobe loop
blockdev.test -test.v -test.run 'LV|Mapper|Snapshot|Thin|LongTable|Unused'
