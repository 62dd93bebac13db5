#!/bin/sh
# base_hook.sh ROOT: reduce an extracted root filesystem to what a Python program needs. Called by mmdebstrap, which
# extracts packages without running their scripts: what those would have made, and we need, is made here.
set -eu
root=$1
archives=$root/var/cache/apt/archives

# Dependencies of install scripts and command-line tools. Nothing of them is kept.
for package in debconf dpkg tar openssl perl-base readline-common; do
  for deb in "$archives/${package}"_*.deb; do
    [ -e "$deb" ] || continue
    dpkg-deb --fsys-tarfile "$deb" | tar --list | while read -r path; do
      [ -d "$root/$path" ] && [ ! -L "$root/$path" ] || rm -f "$root/$path"
    done
    rm "$deb"
  done
done
find "$root/usr/bin" "$root/usr/sbin" \( -type f -o -type l \) ! -name python3.11 -delete
for unused in man locale lintian info bug perl5 debconf; do rm -rf "$root/usr/share/$unused"; done
rm -rf "$root/etc/ssl/private" "$root/usr/lib/x86_64-linux-gnu/gconv"
find "$root/usr/share/doc" -type f ! -name copyright -delete
[ ! -e "$root/usr/lib/chromium/chromium" ] || ln -s ../lib/chromium/chromium "$root/usr/bin/chromium"

# One control file for each package, where scanners of images without dpkg look for them.
mkdir -p "$root/var/lib/dpkg/status.d"
for deb in "$archives"/*.deb; do
  dpkg-deb --field "$deb" > "$root/var/lib/dpkg/status.d/$(dpkg-deb --field "$deb" Package)"
done
rm -f "$root"/var/lib/dpkg/status "$root"/var/lib/dpkg/status-old "$root"/var/lib/dpkg/info/*

mkdir -p "$root/etc/ssl/certs" "$root/tmp" "$root/proc" "$root/sys" "$root/dev" "$root/usr/lib/ssl"
chmod 1777 "$root/tmp"
cat "$root"/usr/share/ca-certificates/mozilla/*.crt > "$root/etc/ssl/certs/ca-certificates.crt"
ln -sf /etc/ssl/certs/ca-certificates.crt "$root/usr/lib/ssl/cert.pem"
printf 'root:x:0:0:root:/tmp:\ninstar:x:10001:0:instar:/tmp:\n' > "$root/etc/passwd"
printf 'root:x:0:\n' > "$root/etc/group"
printf 'hosts: files dns\n' > "$root/etc/nsswitch.conf"
printf 'ID=debian\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12, reduced"\n' > "$root/etc/os-release"

# Debian compiles the standard library at installation; a read-only root filesystem could never cache it.
chroot "$root" /usr/bin/python3.11 -m compileall -q --invalidation-mode unchecked-hash /usr/lib/python3.11
