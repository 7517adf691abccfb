#!/bin/bash
# lab: campaign
# Bases never harm a guest: they are kept only where there is room for all that can be rewritten or somebody looks
# after them, and give way, the oldest first, to guests and to the snapshots of a run.
vg=xblab0
pool=$vg-pool-tpool
thinpool dom0a $vg/pool 200M
mkthin dom0a $vg/pool t1 40M
mkthin dom0a $vg/pool big 300M
mklv dom0a $vg/thick 32M
fill dom0a /dev/$vg/t1
fill dom0a /dev/$vg/thick
: >empty
xb-sig empty >sig
used() { dmsetup status $pool | sed -E 's|.* ([0-9]+)/([0-9]+) [^ ]+ rw .*|\1|'; }
thin_guard() { xb-snap guard --bases --once --pool-limit "$1" >guarded 2>said || fail "status $?: $(cat said)"; }

# keeps SOURCE [OPTION]...: a snapshot, sent and kept; its path in $snap.
keeps() {
	snap=$(xb-snap create --size 8M --owner $$ "$1")
	xb-delta --signature sig --summary summary "$snap" >sent.delta
	xb-snap keep --for dom0b --disk "vm/${1##*/}" --summary summary --taken 2026-11-26T23:47:28Z "${@:2}" "$snap"
}
record() { xb-patch --record "$1" --peer dom0b --disk "vm/${1##*/}" --target /dev/x --stages "0 0 0" --sent summary </dev/null >/dev/null; }

echo "--- room for all that can be rewritten, or a guard"
keeps /dev/$vg/t1
record /dev/$vg/t1
first=$snap
status 1 keeps /dev/$vg/big 2>said
grep "no base of vm/big is kept for dom0b: thin pool $vg-pool has metadata for only .* with bases its guests may take 340.0 MiB" said
status 1 keeps /dev/$vg/big 2>said
equal "$(cat said)" "" "what is said the second time"
thin_guard 80
equal "$(cat guarded said)" "" "what a guard says that has nothing to do"
status 1 keeps /dev/$vg/big --pool-limit 10 2>said
grep "% full, and above 10 % bases give way" said
keeps /dev/$vg/big
xb-snap list | grep -P "^$snap\t.*\tbase of dom0b$"
xb-snap remove "$snap"
rm /run/xb-snap-guard.*

echo "--- above the limit the oldest goes, and no more than must"
before=$(used)
fill dom0a /dev/$vg/t1
sleep 1.1 # LVM keeps seconds
keeps /dev/$vg/t1
second=$snap
fill dom0a /dev/$vg/t1
thin_guard 80
equal "$(cat guarded)" "" "what is removed below the limit"
thin_guard 50
equal "$(cat guarded)" "$first" "what is removed above the limit"
grep "base $first removed: thin pool $vg-pool was 60.* % full" said
equal "$(used)" $((before + 40 * 16)) "the blocks that are used"
xb-snap base --peer dom0b /dev/$vg/t1 2>said | jq -r .snapshot >offered
equal "$(cat offered)" "$second" "what is offered"
grep "$first was removed: thin pool" said

echo "--- one that is being read frees its room at once"
exec 9<"$second"
sleep 1000 &
reader=$!
exec 9<&-
thin_guard 30
equal "$(cat guarded)" "$second" "what is removed above the limit"
equal "$(used)" "$before" "the blocks that are used"
refused 82 "given up" xb-snap check "$second"
kill $reader
wait $reader || true
equal "$(xb-snap prune --bases)" "$second" "what is pruned when nobody reads it"

echo "--- a run's guard gives a base up before the run's own snapshot"
keeps /dev/$vg/t1
base=$snap
own=$(xb-snap create --size 8M --owner $$ /dev/$vg/t1)
xb-snap guard --owner $$ >guarded 2>said &
guard=$!
mkthin dom0a $vg/pool filler 200M
for ((at = 0; at < 200; at += 2)); do
	! xb-snap check "$base" >/dev/null 2>&1 || dd if=/dev/urandom of=/dev/$vg/filler bs=1M count=2 seek=$at oflag=direct status=none
	[ -s guarded ] || dd if=/dev/urandom of=/dev/$vg/t1 bs=1M count=1 seek=$((at % 40)) oflag=direct conv=notrunc status=none
done
until [ -s guarded ]; do sleep 0.1; done
equal "$(head -n 1 guarded)" "$base" "what was given up first"
kill $guard
status 143 wait $guard
xb-snap prune --bases
xb-snap remove "$own"
lvremove -q -y $vg/filler

echo "--- thick: only if it is wanted, and not when it is nearly full"
status 1 keeps /dev/$vg/thick --auto 2>said
equal "$(cat said)" "" "what is said of what was to be expected"
keeps /dev/$vg/thick
thick=$snap
dd if=/dev/urandom of=/dev/$vg/thick bs=1M count=5 oflag=direct status=none
thin_guard 80
equal "$(cat guarded)" "" "what is removed while there is room in it"
dd if=/dev/urandom of=/dev/$vg/thick bs=1M count=7 oflag=direct status=none
exec 9<"$thick"
sleep 1000 &
reader=$!
exec 9<&-
refused 75 "is being read" xb-snap guard --bases --once
kill $reader
wait $reader || true
thin_guard 80
equal "$(cat guarded)" "$thick" "what is removed when it is nearly full"
grep "it was 8.* % full" said

echo "--- a volume group without room for the next snapshots"
keeps /dev/$vg/thick
thick=$snap
xb-snap list --json | jq -r '.[] | select(.owner | startswith("base") | not) | .snapshot' | xargs xb-snap remove
free=$(vgs --noheadings --units m --nosuffix -o vg_free $vg | tr -d ' ')
mklv dom0a $vg/fill "${free%.*}M"
refused 73 "has only" xb-snap create --size 8M --dry-run /dev/$vg/thick
equal "$(xb-snap create --or-none -v --size 8M /dev/$vg/thick 2>said)" "" "what is taken when bases must not give way"
grep "no snapshots: volume group $vg has only" said
next=$(xb-snap create --size 8M /dev/$vg/thick 2>said)
grep "base $thick removed: the next snapshots need its room" said
equal "$(xb-snap list | cut -f1)" "$next" "what is left"
xb-snap remove "$next"
