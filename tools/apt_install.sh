#!/bin/sh
# Install Debian packages as root or through sudo; otherwise say which command to run.
set -eu
if ! command -v apt-get >/dev/null; then
    echo "please install: $*" >&2
    exit 1
elif [ "$(id -u)" = 0 ]; then
    run=""
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    run="sudo"
else
    echo "missing: $*; install with: sudo apt-get update && sudo apt-get install -y $*" >&2
    exit 1
fi
$run apt-get update -qq
$run apt-get install -y -qq "$@"
