# SPDX-License-Identifier: GPL-2.0
# Sourced by tools/check: reads tools/steps, and finds out which of the steps run (WANTED)
# and which of these count (COUNTED).

# For each step: its kind, the steps that it needs, its limit, and which runs have it
declare -A KIND=() NEEDS=() LIMIT=() RUNS=() WANTED=() COUNTED=()
# The steps in order
TABLE=()

long() { local runs=all; "$@"; }
soak() { local runs=soak; "$@"; }
queues() { local runs=${runs-check}; [ -z "${OWN_TREE-}" ] || runs=never; "$@"; }
together() { :; }
apart() { :; }
# run KIND NAME AFTER SECONDS COMMAND...: only note the step.
run()
{
	[ -z "${KIND[$2]-}" ] || die "tools/steps has two steps named $2"
	TABLE+=("$2") KIND[$2]=$1 NEEDS[$2]=$3 LIMIT[$2]=$4 RUNS[$2]=${runs-check}
}
. "$TOP/tools/steps"

# possible NAME: succeed unless the step, or one that it needs, never runs.
declare -A POSSIBLE=()
possible()
{
	local dep

	# (Steps that wait for each other are an error, which is found later.)
	[ -n "${POSSIBLE[$1]-}" ] || {
		POSSIBLE[$1]=yes
		for dep in ${NEEDS[$1]-}; do
			possible "$dep" || POSSIBLE[$1]=no
		done
		[ "${RUNS[$1]-}" != never ] || POSSIBLE[$1]=no
	}
	[ "${POSSIBLE[$1]}" = yes ]
}

# selected NAME: succeed if the run was asked for this step.
selected()
{
	local pattern

	possible "$1" || return 1
	case $LEVEL,${RUNS[$1]} in
	,check|all,check|all,all|soak,soak) ;;
	soak,*) [ ${#ONLY[@]} -gt 0 ] || return 1 ;;
	*) return 1 ;;
	esac
	[ ${#ONLY[@]} -gt 0 ] || return 0
	for pattern in "${ONLY[@]}"; do
		# shellcheck disable=SC2053
		[[ $1 != $pattern ]] || return 0
	done
	return 1
}

# need NAME: want the step and those that it needs.
need()
{
	local dep

	[ -z "${WANTED[$1]-}" ] || return 0
	WANTED[$1]=yes
	for dep in ${NEEDS[$1]}; do
		[ -n "${KIND[$dep]-}" ] || die "tools/steps has no step $dep, which $1 needs"
		need "$dep"
	done
}

# part I N: print part I of the wanted steps.  The longest step comes first, and each goes
# to the part whose steps then take the least time, with all those that they need.
part()
{
	local name n dep cost best least load=() all
	local -A has=()

	all=$(for name in "${!WANTED[@]}"; do echo "${LIMIT[$name]} $name"; done | sort -k 1,1nr -k 2 | cut -d ' ' -f 2)
	for name in $all; do
		local -A WANTED=()
		need "$name"
		least=
		for ((n = 1; n <= $2; n++)); do
			cost=${load[n]-0}
			for dep in "${!WANTED[@]}"; do
				[ -n "${has[$n $dep]-}" ] || cost=$((cost + LIMIT[$dep]))
			done
			[ -n "$least" ] && [ $cost -ge "$least" ] || least=$cost best=$n
		done
		load[best]=$least
		for dep in "${!WANTED[@]}"; do has[$best $dep]=yes; done
		[ "$best" != "$1" ] || echo "$name"
	done
}

for name in "${TABLE[@]}"; do
	! selected "$name" || need "$name"
done
[ ${#WANTED[@]} -gt 0 ] || [ -n "$LIST" ] || die "no step matches ${ONLY[*]}"
mine=("${!WANTED[@]}")
if [ -n "$SHARD" ]; then
	mapfile -t mine < <(part "${SHARD%/*}" "${SHARD#*/}")
	WANTED=()
fi
for name in ${mine[@]+"${mine[@]}"}; do
	need "$name"
	COUNTED[$name]=yes
done
if [ -n "$LIST" ]; then
	for name in "${TABLE[@]}"; do
		[ -z "$LEVEL$SHARD${ONLY[*]-}" ] || [ -n "${COUNTED[$name]-}" ] || continue
		printf '%-24s %-5s %-6s %5s  %s\n' "$name" "${KIND[$name]}" "${RUNS[$name]}" "${LIMIT[$name]}" "${NEEDS[$name]}"
	done
	exit
fi
