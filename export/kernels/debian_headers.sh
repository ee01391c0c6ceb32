#!/bin/sh
# Unpacks a package of Debian 13 into a folder; nothing is installed, the host's apt stays as it is.
#
#     debian_headers.sh libonnxruntime-dev FOLDER
set -eu
package=$1 folder=$2 suite=trixie
[ ! -d "$folder/usr" ] || exit 0
mirror=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2> /dev/null | head -n 1 | tr -d ' ')
[ -n "$mirror" ] || { echo "no Debian mirror is named in /etc/apt: install $package, or see export/kernels/README.md" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial"
: > "$work/state/status"
keys=/usr/share/keyrings/debian-archive-keyring.gpg
signed=
[ ! -f $keys ] || signed=" [signed-by=$keys]"
echo "deb$signed $mirror $suite main" > "$work/sources.list"
cat > "$work/settings" << SETTINGS
Dir::State "$work/state";
Dir::State::status "$work/state/status";
Dir::Cache "$work/cache";
Dir::Etc::sourcelist "$work/sources.list";
Dir::Etc::sourceparts "-";
APT::Sandbox::User "root";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
SETTINGS
cd "$work"
apt-get -qq -c settings update --error-on=any
apt-get -qq -c settings download "$package"
mkdir unpacked
dpkg-deb --extract "$package"_*.deb unpacked
mkdir -p "$(dirname "$folder")"
rm -rf "$folder"
mv unpacked "$folder"
