# SPDX-License-Identifier: GPL-2.0
# Sourced by the checks of a patch, which are called with COMMIT [ARGUMENT].  COMMIT is one of
# build/linux, or the name of a patch, for example mmap/0003.
#
# Inputs: tools/checks/store.sh

. "${BASH_SOURCE[0]%/*}/store.sh"

USAGE=$(sed -n '4s/^# //p' "$0")
[ $# = $(($(wc -w <<< "$USAGE") - 1)) ] || die "usage: $USAGE"
COMMIT=$(commit_of "$1")
ARGUMENT=${2-}

skip() { echo "there is nothing to check: $1"; exit 4; }
