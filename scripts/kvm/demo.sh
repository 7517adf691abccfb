#!/bin/bash
# scripts/demo --guest: a guest that writes for ever is copied while it runs, loses its host, is started on the other one from
# its standbys, copied back, and moved back with its memory. What is shown goes to descriptor 3.
{ true >&3; } 2>/dev/null || exec 3>/dev/null
tell() { printf '%s\n' "$1" && printf '%s\n' "$1" >&3; }
step() { tell "" && tell "== $*"; }
say() { tell "   $*"; }

# root_at HOST STATUS COMMAND-LINE [PATTERN] does what root types there, and shows what it says, or just such lines.
root_at() {
	local got=0 line
	say "$1# $3"
	on "$1" bash -c "$3" >said 2>&1 </dev/null || got=$?
	cat said
	while IFS= read -r line; do printf '     %s\n' "$line" >&3; done < <(grep -E -- "${4:-}" said)
	[[ $got = "$2" ]] || fail "status $got, not $2"
	[[ -z ${4:-} ]] || grep -qE -- "$4" said || fail "nothing like $4 was said"
	say "status $2"
}

# last HOST: what domu1 has said there at last of how much it has written.
last() { grep -aoE '^(AT|BOOTED) [0-9]+' "$(console "$1")" | tail -n 1 | tr -dc 0-9; }

# booted HOST: where domu1 went on there.
booted() { grep -aoE -m 1 '^BOOTED [0-9]+' "$(console "$1")" | tr -dc 0-9; }

# whole HOST shows that both disks there are of one instant.
whole() {
	local said
	said=$(instant "$1")
	say "the disks on $said: no line is missing, and no file system is hurt"
}

for h in dom0a dom0b; do
	for name in xen-backup xen-failover; do on $h ln -sf $name.sh /usr/local/sbin/$name; done
done

step 'A guest on dom0a writes 1, 2, 3... for ever: each number to one disk, synced, then to the other'
fresh agent
root_at dom0a 0 'virsh -q list; xb-locate domu1'
goes_on dom0a
say "it has written the numbers up to $(last dom0a)"

step 'Both disks are copied while it runs'
root_at dom0a 0 xen-backup '^###'
goes_on dom0a
whole dom0b

step 'And again: the cost follows what it has written since'
root_at dom0a 0 'xen-backup && xen-backup --status' 'OK|DOMU|vd[ab]'
whole dom0b

step 'Would it start there? A copy of it does, without network, beside it'
root_at dom0b 0 'xen-failover test domu1 --trust-document --for 10m --pattern "BOOTED [0-9]"' 'its test copy|it starts'

step 'dom0a is cut off, and its power fails'
goes_on dom0a
lost=$(last dom0a)
on dom0a ip link set veth0 down
on dom0a virsh -q destroy domu1
say "the last number that it was heard of is $lost"
root_at dom0b 69 'CONNECT_TIMEOUT=2 xen-failover promote domu1' 'cannot be reached'

step 'One command starts it on dom0b'
rm -f "$(console dom0b)"
root_at dom0b 0 'CONNECT_TIMEOUT=2 xen-failover promote domu1 --the-other-host-is-off'
until_so grep -aq '^BOOTED' "$(console dom0b)"
kept=$(booted dom0b)
goes_on dom0b
say "it goes on from $kept, which is of the last copy, and is at $(last dom0b)"

step 'dom0a is back: what only it has, since the last copy, is not overwritten unless root says so'
on dom0a ip link set veth0 up
until_so on dom0b ssh dom0a true
root_at dom0b 3 xen-backup 'ERROR 80'
root_at dom0b 0 'xen-backup --force-diverged domu1 && xen-backup --status' 'OK|DOMU|vd[ab]'
whole dom0a

step 'And it is moved back, with its memory: it is not booted there'
root_at dom0a 0 'xb-locate --check-document --trust-document --document-file /run/judged domu1'
goes_on dom0b
left=$(last dom0b)
rm -f "$(console dom0a)"
root_at dom0b 0 'xen-failover move domu1 dom0a --with-memory' 'goes on'
goes_on dom0a
! grep -aq BOOTED "$(console dom0a)" || fail "it was booted"
came=$(last dom0a)
((came > left)) || fail "it goes on from what it was before: it had written $left, and is at $came"
say "it had written $left on dom0b, and is at $came on dom0a"
root_at dom0a 0 xen-backup
whole dom0b
