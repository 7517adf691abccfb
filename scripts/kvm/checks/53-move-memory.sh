#!/bin/bash
# pair: campaign
# domu1 goes on on the other host with its memory, by one command, and comes back: it is not booted, and its writes go on
# whole, also where a disk has another name. What cannot be restored there, finds no room or is cut off goes on here.
# shellcheck disable=SC2016 # for the hosts' shells
fresh
for h in dom0a dom0b; do on $h ln -sf xen-failover.sh /usr/local/sbin/xen-failover; done
failover() { on "$1" env -i CONNECT_TIMEOUT=10 /usr/local/sbin/xen-failover "${@:2}" 2>&1 | tee said; }
runs_on() { [[ $(for h in dom0a dom0b; do on $h xb-locate --active domu1; done) = "$1" ]]; }
trusted_on() { on "$1" xb-locate --check-document --trust-document --document-file /run/judged domu1; }
nothing_left() {
	local h
	for h in dom0a dom0b; do [[ -z $(on $h find /var/lib/xen-backup -name '*.memory*') ]]; done
}
last() { { grep -a 'AT\|BOOTED' "$1" || echo AT 0; } | tail -n 1 | cut -d ' ' -f 2 | tr -dc 0-9; }
# goes_on_there FROM TO: it has come with its memory: it counts on, and was not booted
goes_on_there() {
	goes_on "$2"
	! grep -q BOOTED "$(console "$2")" || fail "it was booted on $2"
	echo "$1: at $(last "$(console "$1").before"); $2: at $(last "$(console "$2")")"
	(($(last "$(console "$2")") > $(last "$(console "$1").before")))
	nothing_left
}
keep_console() { # FROM TO
	goes_on "$1"
	cp "$(console "$1")" "$(console "$1").before"
	[[ $1 = "$2" ]] || rm -f "$(console "$2")"
}

conf dom0a 'MAP="dom0b:/srv/root.img=/srv/other.img"'
conf dom0b 'MAP="dom0a:/srv/other.img=/srv/root.img"'
backup dom0a
trusted_on dom0b

echo "--- moved"
keep_console dom0a dom0b
start=$SECONDS
failover dom0a move domu1 dom0b --with-memory
echo "moved in $((SECONDS - start)) s"
grep '## DomU domu1 goes on on dom0b' said
runs_on $'no\nyes'
goes_on_there dom0a dom0b
on dom0b virsh -q dumpxml domu1 | grep -c "/srv/other.img"
on dom0b virsh -q dumpxml --inactive domu1 | grep -c "/srv/other.img"

echo "--- the next run is the other way round"
backup dom0b
instant dom0a

echo "--- and back"
trusted_on dom0a
keep_console dom0b dom0a
failover dom0b move domu1 dom0a --with-memory
runs_on $'yes\nno'
goes_on_there dom0b dom0a
backup dom0a
on dom0b cp --reflink=always /srv/other.img /srv/root.img
instant dom0b
on dom0b rm /srv/root.img

stays() { # STATUS
	local boots
	boots=$(grep -c BOOTED "$(console dom0a)" || :)
	status "$1" failover dom0a move domu1 dom0b --with-memory
	grep -E 'domu1 (runs here again|still runs here)' said
	runs_on $'yes\nno'
	goes_on dom0a
	[[ $(grep -c BOOTED "$(console dom0a)" || :) = "$boots" ]]
}

echo "--- it cannot be restored there"
rm -f "$(console dom0b)"
mkdir "$(console dom0b)"
stays 69
nothing_left
rmdir "$(console dom0b)"

campaign || exit 0 # the tests of moves with xl have the rest, too
echo "--- there is no room for its memory there"
on dom0b mount -t tmpfs -o size=65M none /var/lib/xen-backup/move
stays 73
nothing_left
on dom0b umount /var/lib/xen-backup/move

echo "--- the link is cut while its memory is sent"
cut_link() {
	until_so on dom0b sh -c 'ls /var/lib/xen-backup/move/.domu1.memory* >/dev/null 2>&1'
	on dom0a ip link set veth0 down
}
cut_link &
stays 69
wait $!
on dom0a ip link set veth0 up
backup dom0a
on dom0b cp --reflink=always /srv/other.img /srv/root.img
instant dom0b

echo "--- and it is moved all the same"
keep_console dom0a dom0b
failover dom0a move domu1 dom0b --with-memory
goes_on_there dom0a dom0b
backup dom0b
instant dom0a
