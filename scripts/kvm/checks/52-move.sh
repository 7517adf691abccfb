#!/bin/bash
# pair: campaign
# The planned move: domu1 is shut off, copied for a last time and started on the other host by one command there where it
# runs, and goes back by another one. Its writes go on whole. What would fail is found while it still runs, and what fails
# later has it start again where it was.
fresh agent
for h in dom0a dom0b; do on $h ln -sf xen-failover.sh /usr/local/sbin/xen-failover; done
failover() { on "$1" env -i CONNECT_TIMEOUT=10 /usr/local/sbin/xen-failover "${@:2}" 2>&1 | tee said; }
runs_on() { [[ $(for h in dom0a dom0b; do on $h xb-locate --active domu1; done) = "$1" ]]; }
# went_on FROM TO: it was shut down, has booted there, and knows all that it has written here
went_on() {
	local n
	n=$(grep -a OFF "$(console "$1")" | tail -n 1 | cut -d ' ' -f 2 | tr -dc 0-9)
	until_so grep -aq BOOTED "$(console "$2")"
	grep -aq "BOOTED $n $n" "$(console "$2")" || fail "$1: off at $n; $2: $(grep -a BOOTED "$(console "$2")")"
	goes_on "$2"
}

echo "--- its document is not trusted there"
status 77 failover dom0a move domu1 dom0b
grep 'not for the guest alone: os/kernel' said
runs_on $'yes\nno'
on dom0b xb-locate --check-document --trust-document --document-file /run/judged domu1

echo "--- moved"
on dom0a virsh -q autostart domu1
goes_on dom0a
rm -f "$(console dom0b)"
failover dom0a move domu1 dom0b --for 10m
grep '## DomU domu1 runs on dom0b' said
runs_on $'no\nyes'
on dom0a virsh dominfo domu1 | grep 'Autostart: *disable'
[[ -z $(on dom0a find /var/lib/xen-backup/move -name '*.json') ]]
went_on dom0a dom0b

echo "--- and back"
status 77 failover dom0b move domu1 dom0a
on dom0a xb-locate --check-document --trust-document --document-file /run/judged domu1
rm -f "$(console dom0a)"
failover dom0b move domu1 dom0a --for 10m
runs_on $'yes\nno'
went_on dom0b dom0a

echo "--- it does not start there"
rm -f "$(console dom0b)"
mkdir "$(console dom0b)"
status 69 failover dom0a move domu1 dom0b --for 10m
grep 'runs here again' said
runs_on $'yes\nno'
until_so grep -aq BOOTED "$(console dom0a)"
goes_on dom0a
rmdir "$(console dom0b)"
backup dom0a
instant dom0b

echo "--- a guest that does not hear"
fresh deaf
on dom0b rm -f "$(console dom0b)"
backup dom0a
on dom0b xb-locate --check-document --trust-document --document-file /run/judged domu1
status 75 failover dom0a move domu1 dom0b --for 2s
grep 'did not shut down within 2s' said
runs_on $'yes\nno'
goes_on dom0a
backup dom0a
instant dom0b
