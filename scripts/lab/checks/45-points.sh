#!/bin/bash
# lab: campaign
# lab: udev
# Points in time of thin standbys: a set's are made together, before anything is written, and once; what they hold is what
# was proved. A kill between the snapshots and the record takes nothing away. They give way last, and thick volumes get none.
# shellcheck disable=SC2016
vg=xblab0
thinpool dom0a $vg/pool 200M
for disk in root data; do
	mkthin dom0a $vg/pool $disk 8M
	head -c 8M /dev/urandom >/run/$disk
done
hour() { echo 2026-11-26T0"$1":00:00Z; }
set_of() { printf "%.0s$1" {1..26}; } # a letter
holds() { # LETTER HOUR: the images in /run are held for both disks
	for disk in root data; do
		xb-sig /dev/$vg/$disk | xb-delta /run/$disk |
			xb-patch --auto --peer dom0b --disk "web/$disk" --hold "$(set_of "$1")" --taken "$(hour "$2")" --keep 3 /dev/$vg/$disk
	done
}
stores() { # LETTER HOUR: the document of both disks, as a run stores it after its commit
	printf 'name = "web"\nmemory = %d\ndisk = [ "/dev/%s/root,raw,root,rw", "/dev/%s/data,raw,data,rw" ]\n# end of the configuration\n' \
		"$2" $vg $vg | xb-locate --store web --set "$(set_of "$1")" --taken "$(hour "$2")"
}
documents() { # HOUR...: there are those of the points of then, and no others
	local want='' h
	for h; do want+="${want:+ }web@$(hour "$h").cfg"; done
	equal "$(find /var/lib/xen-backup/xml/at -type f -printf '%f\n' | sort | xargs)" "$want" "the documents of points"
}
commits() { xb-patch --commit "$(set_of "$1")" --peer dom0b /dev/$vg/root /dev/$vg/data; }
changes() { # N: some bytes of both disks are others; what they were is kept as /run/DISK.N
	for disk in root data; do
		cp /run/$disk /run/$disk."$1"
		head -c 1M /dev/urandom | dd of=/run/$disk bs=64k seek="$1" conv=notrunc status=none
	done
}
points() { xb-snap list --points "$@" | cut -f 2 | xargs; }
point() { xb-snap list --points /dev/$vg/"$1" | awk -v t="$(hour "$2")" '$2 == t { print $5 }'; }
holding() { # DISK HOUR N
	cmp -n 8388608 "$(point "$1" "$2")" /run/"$1"."$3" || fail "the point of $1 of $2 is not what was copied then"
}

echo "--- together, before the first write"
holds a 1
commits a 2>&1 | grep -v "first contact" || :
stores a 1
changes 1
holds b 2
equal "$(points)" "" "points before the commit"
status 0 commits b
stores b 2
documents 1
equal "$(points /dev/$vg/root) $(points /dev/$vg/data)" "$(hour 1) $(hour 1)" "the points of the first set"
holding root 1 1
holding data 1 1
equal "$(xb-snap list --points | cut -f 1,3 | sort | xargs)" "/dev/$vg/data $(set_of a) /dev/$vg/root $(set_of a)" "whose they are"
lvs --noheadings -o lv_tags "$(point root 1)" | grep "xen-backup.owner=point:$(set_of a)"
equal "$(blockdev --getro "$(point root 1)")" 1 "the kernel's flag"
equal "$(xb-patch --state /dev/$vg/root | jq -c '[.phase, .whole_set, .changed_since]')" '["clean",true,false]' "the standby"

echo "--- killed between the snapshots and the record"
mkdir -p killed
cat >killed/lvcreate <<'K'
#!/bin/sh
/usr/sbin/lvcreate "$@" || exit
[ ! -e one ] || kill -KILL $PPID
: >one
K
chmod 755 killed/lvcreate
changes 2
holds c 3
rm -f one
status 137 env PATH="$PWD/killed:$PATH" xb-patch --commit "$(set_of c)" --peer dom0b /dev/$vg/root /dev/$vg/data
equal "$(points | wc -w)" 4 "points after the kill"
equal "$(xb-patch --state /dev/$vg/data | jq -r .phase)" clean "the phase after the kill"
equal "$(xb-snap prune; xb-snap prune --bases --peers "")" "" "what is pruned"
documents 1 2
commits c
stores c 3
documents 1 2
equal "$(points /dev/$vg/root) $(points /dev/$vg/data)" "$(hour 1) $(hour 2) $(hour 1) $(hour 2)" "the points after the next commit"
for disk in root data; do
	holding $disk 1 1
	holding $disk 2 2
	cmp -n 8388608 /dev/$vg/$disk /run/$disk || fail "$disk is not the new image"
done

echo "--- killed after the first of two snapshots"
cat >killed/lvcreate <<'K'
#!/bin/sh
/usr/sbin/lvcreate "$@" && kill -KILL $PPID
K
changes 3
holds d 4
status 137 env PATH="$PWD/killed:$PATH" xb-patch --commit "$(set_of d)" --peer dom0b /dev/$vg/root /dev/$vg/data
equal "$(points | wc -w)" 5 "points after the kill"
documents 1 2 3
commits d
stores d 4
equal "$(points /dev/$vg/root) $(points /dev/$vg/data)" "$(hour 1) $(hour 2) $(hour 3) $(hour 1) $(hour 2) $(hour 3)" "the points then"
holding root 3 3
holding data 3 3

echo "--- pruned by the rule"
changes 4
holds e 5
commits e
stores e 5
documents 2 3 4
equal "$(points /dev/$vg/root) $(points /dev/$vg/data)" "$(hour 2) $(hour 3) $(hour 4) $(hour 2) $(hour 3) $(hour 4)" "the three latest"

echo "--- back, together, whatever kills it, and forward again"
cat >killed/dmsetup <<'K'
#!/bin/sh
kill -KILL $PPID
K
chmod 755 killed/dmsetup
rm killed/lvcreate
cp killed/dmsetup killed/lvcreate
for disk in root data; do cp /run/$disk /run/$disk.5; done
status 137 env PATH="$PWD/killed:$PATH" xb-snap rollback --at "$(hour 3)" /dev/$vg/root /dev/$vg/data
refused 64 "name all standbys of its set" xb-snap rollback --at "$(hour 3)" /dev/$vg/root
status 0 xb-snap rollback -v --at "$(hour 3)" /dev/$vg/root /dev/$vg/data
for disk in root data; do cmp -n 8388608 /dev/$vg/$disk /run/$disk.3 || fail "$disk is not what it was at 3"; done
equal "$(xb-patch --state /dev/$vg/root | jq -c '[.phase, .whole_set, .changed_since, .taken]')" "[\"clean\",true,false,\"$(hour 3)\"]" "its state"
documents 2 3 4 5
started() { xb-locate --check-document --document-file /run/web "$@" web | cut -f 2,3 | xargs; grep memory /run/web.cfg; }
equal "$(started)" "/dev/$vg/root $(hour 3) /dev/$vg/data $(hour 3)
memory = 3" "what it would be started by"
equal "$(started --at-point "$(hour 6)")" "/dev/$vg/root $(hour 5) /dev/$vg/data $(hour 5)
memory = 5" "what the latest point would be started by"
equal "$(points /dev/$vg/root) $(points /dev/$vg/data)" \
	"$(hour 2) $(hour 3) $(hour 4) $(hour 5) $(hour 2) $(hour 3) $(hour 4) $(hour 5)" "what it was is a point, too"
holding root 5 5
xb-snap rollback --at "$(hour 5)" /dev/$vg/root /dev/$vg/data
for disk in root data; do cmp -n 8388608 /dev/$vg/$disk /run/$disk.5 || fail "$disk is not what it was at 5"; done
xb-snap remove "$(point root 5)" "$(point data 5)"
documents 2 3 4 5 # the standbys are that

echo "--- they are no standbys, bases or leftovers, and their names fit"
one=$(point root 2)
refused 78 "made by xb-snap" xb-patch --prepare --peer dom0b --disk web/root --size 8388608 "$one"
lvchange -q -prw "$one"
refused 78 "made by xb-snap" xb-patch --prepare --peer dom0b --disk web/root --size 8388608 "$one"
lvchange -q -pr "$one"
xb-snap remove --unless-kept "$one"
[ -e "$one" ] || fail "it was removed"

echo "--- no room: nothing is written"
used() { lvs --noheadings --nosuffix -o data_percent $vg/pool | xargs; }
for disk in root data; do mv /run/$disk /run/$disk.5; head -c 8M /dev/urandom >/run/$disk; done
mkthin dom0a $vg/pool filler 200M
dd if=/dev/urandom of=/dev/$vg/filler bs=1M count=$((200 - $(used | cut -d. -f1) * 2 - 14)) oflag=direct status=none
holds f 6
refused 73 "points in time take some there" commits f
equal "$(points /dev/$vg/root) $(points /dev/$vg/data)" "$(hour 2) $(hour 3) $(hour 4) $(hour 2) $(hour 3) $(hour 4)" "the points after that"
for disk in root data; do cmp -n 8388608 /dev/$vg/$disk /run/$disk.5 || fail "$disk was written to"; done

echo "--- a pool above its limit loses the oldest, a set at a time"
limit=$(($(used | cut -d. -f1) - 1))
xb-snap guard --bases --once --pool-limit $limit 2>why
grep "point $(hour 2) of /dev/$vg/root removed: thin pool" why
grep "point $(hour 2) of /dev/$vg/data removed: thin pool" why
left=$(points /dev/$vg/root)
case $left in "$(hour 3) $(hour 4)" | "$(hour 4)") ;; *) fail "what stays: $left" ;; esac
equal "$(points /dev/$vg/data)" "$left" "what stays of the other disk"
lvremove -q -y $vg/filler >/dev/null

echo "--- a thick one gets none, which is said once"
mklv dom0a $vg/thick 8M
head -c 8M /dev/urandom >/run/thick
for n in 1 2 3; do
	xb-sig /dev/$vg/thick | xb-delta /run/thick | xb-patch --auto --peer dom0b --disk web/thick --taken "$(hour $n)" --keep 3 /dev/$vg/thick 2>said$n
	dd if=/dev/urandom of=/run/thick bs=4k count=$n conv=notrunc status=none
done
grep "no point in time was made: .*$vg/thick is no thin volume" said2
[ ! -s said3 ] || fail "it is said again: $(cat said3)"
equal "$(points /dev/$vg/thick)" "" "points of a thick one"

echo "--- without what is remembered of the standby"
rm /var/lib/xen-backup/*.json
equal "$(points /dev/$vg/root) $(points /dev/$vg/data)" "$left $left" "what is listed"
xb-snap list --points | cut -f 5 | xargs xb-snap remove
equal "$(points)" "" "what is left"
documents 5
touch -d '2 hours ago' /var/lib/xen-backup/xml/at/*
xb-snap prune
documents
