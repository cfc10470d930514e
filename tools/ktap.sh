# SPDX-License-Identifier: GPL-2.0
# Sourced by the tests that are shell scripts, also in the guest, whose shell is busybox:
# results in KTAP.

KTAP_N=0 KTAP_FAILED=0
# Tests of the tools cause such faults on purpose.
[[ $0 != */tools/tests/* ]] || unset MACHINE_FAULT

plan() { printf 'KTAP version 1\n1..%s\n' "$1"; }

# result_ STATUS DESCRIPTION WHY: print a result, and WHY if the test failed.
result_()
{
	KTAP_N=$((KTAP_N + 1))
	if [ "$1" = 0 ]; then
		printf 'ok %s %s\n' $KTAP_N "$2"
	else
		[ -z "$3" ] || printf '%s\n' "$3" | sed 's/^/# /'
		printf 'not ok %s %s\n' $KTAP_N "$2"
		KTAP_FAILED=$((KTAP_FAILED + 1))
	fi
}

# test_ FUNCTION DESCRIPTION [ARGUMENT...]: run a test in a subshell.  The output of FUNCTION
# explains its failure.
test_()
{
	local why rc=0 function=$1 description=$2

	shift 2
	why=$("$function" "$@" 2>&1) || rc=$?
	result_ $rc "$description" "$why"
}

skip() { KTAP_N=$((KTAP_N + 1)); printf 'ok %s %s # SKIP %s\n' $KTAP_N "$1" "$2"; }
bail() { printf 'Bail out! %s\n' "$1"; exit 1; }
finish() { [ $KTAP_FAILED = 0 ]; exit; }

# refused OUT WORDS COMMAND...: COMMAND must fail, and its output, which goes to the file
# OUT, must contain WORDS and consist of one sentence and at most the path of a log.
refused()
{
	local out=$1 words=$2

	shift 2
	! "$@" > "$out" 2>&1 < /dev/null || { echo "it did not fail"; return 1; }
	grep -qF -e "$words" "$out" || { echo "it said:"; cat "$out"; return 1; }
	[ "$(grep -vc ': log: ' "$out")" = 1 ] || { echo "more than a sentence:"; cat "$out"; return 1; }
}

# interrupted WHEN OUT COMMAND...: send SIGINT to the process group after WHEN seconds, or
# when the function WHEN succeeds, as Ctrl-C does, and return the status of COMMAND.
interrupted()
{
	local pid

	set -m
	"${@:3}" > "$2" 2>&1 < /dev/null &
	pid=$!
	set +m
	if [[ $1 == [0-9.]* ]]; then
		sleep "$1"
	else
		until "$1" || ! kill -0 $pid; do sleep 0.1; done
	fi
	kill -INT -- "-$pid" 2> /dev/null || true
	wait $pid
}
