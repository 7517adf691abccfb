#!/bin/bash
# pair: campaign
# A guest with an agent has its file systems frozen for the snapshots: in these no journal is to be replayed, as it is
# without that. Who does it may be killed: the guest writes again at once. An agent that does not answer, or none, is 69
# and leaves no snapshot.
# shellcheck disable=SC2016 # for the hosts' shells

# journal: prints how many of the snapshots below /srv have a journal to replay.
journal() {
	on dom0a bash -eu -o pipefail -c 'n=0
		for snapshot in /srv/.*.xb-snap-*; do
			! dumpe2fs -h "$snapshot" 2>/dev/null | grep -q "features:.* needs_recovery" || n=$((n + 1))
		done
		echo $n'
}

# whole: the snapshots are whole file systems of one instant as they are; nothing is repaired in them.
whole() {
	on dom0a bash -eu -o pipefail -c '
		mkdir -p /run/judge/{root,data}
		for disk in root data; do
			e2fsck -fn /srv/.$disk.img.xb-snap-* || exit 1
			mount -o ro,noload,loop /srv/.$disk.img.xb-snap-* /run/judge/$disk
		done
		a=$(tail -n 1 /run/judge/root/log) b=$(tail -n 1 /run/judge/data/log)
		umount /run/judge/{root,data}
		echo "root at $a, data at $b"
		((a == b || a == b + 1))'
}

snap() { on dom0a xb-snap create -v --owner none "$@" /srv/root.img /srv/data.img; }
none() { [ -z "$(on dom0a xb-snap list)" ]; }
remove() { on dom0a bash -c 'xb-snap remove /srv/.*.xb-snap-*'; }

# virsh stops xb-snap when the file systems are frozen, if /run/stop is there.
virsh_that_stops() {
	on dom0a bash -c 'cat >/usr/local/sbin/virsh; chmod +x /usr/local/sbin/virsh' <<'END'
#!/bin/bash
status=0
/usr/bin/virsh "$@" || status=$?
if [[ " $* " = *" domfsfreeze "* && -e /run/stop ]]; then
	kill -STOP "$(</run/stop)"
	while grep -q '^State:.[^T]' /proc/"$(</run/stop)"/task/*/status; do sleep 0.01; done
	touch /run/stopped
fi
exit $status
END
}

fresh agent
until_so on dom0a virsh domtime domu1
rounds=1 agents=(deaf)
! campaign || rounds=3 agents+=('')
for ((; rounds > 0; rounds--)); do
	goes_on dom0a
	snap --freeze domu1
	[ "$(journal)" = 0 ]
	whole
	remove
	goes_on dom0a
done
snap --pause domu1
[ "$(journal)" = 2 ]
remove
goes_on dom0a

echo "--- it is killed while the file systems are frozen"
virsh_that_stops
on dom0a bash -c 'bash -c "echo \$\$ >/run/stop; exec xb-snap create --freeze domu1 --owner none /srv/root.img /srv/data.img" &
	until [ -e /run/stopped ]; do sleep 0.1; done
	virsh qemu-agent-command domu1 "{\"execute\": \"guest-fsfreeze-status\"}" >/run/frozen
	kill -KILL $(</run/stop); wait; rm /run/stop /run/stopped /usr/local/sbin/virsh'
on dom0a grep '"frozen"' /run/frozen
goes_on dom0a
on dom0a virsh domfsthaw domu1 | grep 'Thawed 0'
on dom0a xb-snap prune
none || on dom0a bash -c 'xb-snap remove $(xb-snap list | cut -f 1)'

for word in "${agents[@]}"; do
	echo "--- an agent that is ${word:-not there}"
	fresh ${word:+"$word"}
	status 69 snap --freeze domu1
	none
	snap --freeze-or-go domu1
	[ "$(journal)" = 2 ]
	remove
	goes_on dom0a
done
