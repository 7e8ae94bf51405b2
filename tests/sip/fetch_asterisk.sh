#!/usr/bin/env bash
# Unpacks Asterisk 22 with the libraries it needs into a folder, without installing anything.
#
# Debian 12 has no Asterisk; newer suites have one with chan_websocket. apt fetches it from the mirror
# this machine already uses, with lists, cache and package state of its own, and checks signatures as
# always. Nothing of the machine's packages changes, and no root is needed.
#
# usage: fetch_asterisk.sh DIR
# Prints one line: the version and where it came from. Exits with 3 when it cannot be had here, the
# reason on standard error.
set -euo pipefail

dir=${1:?usage: fetch_asterisk.sh DIR}
mkdir -p "$(dirname "$dir")"
exec 9>"$dir.lock"
flock 9 # two test runs at once: the second finds the work done

if [ -s "$dir/VERSION" ]; then
    echo "$(cat "$dir/VERSION"), kept from an earlier run"
    exit 0
fi

cannot() {
    echo "Asterisk cannot be had here: $*" >&2
    exit 3
}

keyring=/usr/share/keyrings/debian-archive-keyring.gpg
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || cannot "this is not Debian"
[ -r "$keyring" ] || cannot "the package debian-archive-keyring is missing"
mirror=$(apt-get indextargets --format '$(REPO_URI) $(ORIGIN)' 'Created-By: Packages' 2>/dev/null |
    awk '$2 == "Debian" && $1 !~ /security/ {print $1; exit}')
[ -n "$mirror" ] || cannot "apt knows no Debian mirror (run apt-get update first)"

new=$(mktemp -d "$dir.new.XXXXXX")
trap 'rm -rf "$new"' EXIT
apt=$new/apt
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/etc"
: >"$apt/status"
cat >"$apt/apt.conf" <<CONF
Dir::Etc::sourcelist "$apt/etc/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State::lists "$apt/lists";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
APT::Install-Recommends "false";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::Check-Valid-Until "false"; // a mirror may be a frozen copy
CONF
export APT_CONFIG=$apt/apt.conf

# Downloads Asterisk and all it depends on from one suite.
download() {
    echo "deb [signed-by=$keyring] $mirror $1 main" >"$apt/etc/sources.list"
    apt-get --quiet update >>"$apt/log" 2>&1 &&
        apt-get --quiet --yes --download-only install asterisk >>"$apt/log" 2>&1 &&
        compgen -G "$apt/cache/archives/asterisk-modules_*.deb" >/dev/null
}

suite=
for candidate in forky sid; do
    if download "$candidate"; then
        suite=$candidate
        break
    fi
done
[ -n "$suite" ] || cannot "neither Debian forky nor sid gave it: $(tail -n 3 "$apt/log" | tr '\n' ' ')"

# What a PBX that is run in place has no use for.
unused='^(adduser|asterisk-core-sounds|debconf|dpkg|init-system|perl|systemd|sysvinit|tar)[-_.a-z0-9]*_'
for package in "$apt"/cache/archives/*.deb; do
    [[ $(basename "$package") =~ $unused ]] && continue
    dpkg-deb --fsys-tarfile "$package" |
        tar --extract --directory "$new" --keep-directory-symlink --no-same-owner \
            --exclude=./usr/share/doc --exclude=./usr/share/man --exclude=./usr/share/locale \
            --exclude=./dev --exclude=./etc
done
version=$(dpkg-deb --field "$(compgen -G "$apt/cache/archives/asterisk_*.deb")" Version)
echo "Asterisk $version of Debian $suite" >"$new/VERSION"
rm -rf "$apt" "$dir"
mv "$new" "$dir"
trap - EXIT
cat "$dir/VERSION"
