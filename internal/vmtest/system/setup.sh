#!/bin/sh
# Turns what mmdebstrap made in the directory $1 into the system of a guest,
# with the kernel that is in its /boot. Vmtest runs it as a hook of mmdebstrap.
set -e

# What mmdebstrap took from this machine, or left.
rm -f "$1/etc/resolv.conf" "$1/etc/apt/sources.list.d"/* "$1/etc/apt/sources.list" "$1/etc/apt/apt.conf.d/99mmdebstrap"
rm -rf "$1/usr/share/locale" "$1/usr/share/doc"/*

# A person at the console needs no password.
chroot "$1" passwd --quiet --delete root

chroot "$1" systemctl --quiet enable vmtest-agent.service
chroot "$1" systemctl --quiet set-default multi-user.target
# What takes time and has nothing to do with devices; on a serial console there
# is a login when a person asks for it. There is no D-Bus, which logind needs.
chroot "$1" systemctl --quiet mask \
	apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer \
	systemd-tmpfiles-clean.timer e2scrub_reap.service systemd-logind.service \
	getty-static.service getty@tty1.service
# The journal outlives a reboot.
mkdir -p "$1/var/log/journal"

for kernel in "$1"/boot/vmlinuz-*; do
	chroot "$1" update-initramfs -c -k "${kernel##*/vmlinuz-}"
done
