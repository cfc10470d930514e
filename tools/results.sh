# SPDX-License-Identifier: GPL-2.0
# Sourced by tools/check: its results for people on a terminal and for other programs.

# --- The progress, on a terminal

# TIME: how long a step took in its last run.  SHARE: how long that run took, in per cent
# of all its steps.
declare -A TIME=()
SHARE=100
estimate()
{
	local name seconds

	[ -t 1 ] || return 0
	while IFS=$'\t' read -r name seconds; do TIME[$name]=$seconds
	done < <(cat "$OUT"/*.json 2>/dev/null | jq -r '[.name, .seconds] | @tsv')
	SHARE=$(jq '([.steps[].seconds] | add) as $all | if $all > 0 then .seconds * 100 / $all | floor else 100 end' \
		"$RESULTS/summary.json" 2>/dev/null) || SHARE=100
}
show_status()
{
	local name left=0 seconds=0 text

	[ -t 1 ] || return 0
	for name in "${!WANTED[@]}"; do
		[ -z "${RESULT[$name]-}" ] || continue
		left=$((left + 1)) seconds=$((seconds + ${TIME[$name]-0}))
	done
	seconds=$((seconds * SHARE / 100))
	text="$left left"
	[ $seconds = 0 ] || text+=", about $(((seconds + 59) / 60)) min"
	text+=":"
	for name in "${NAME[@]}"; do
		text+=" $name"
		case $name in kernel-*|qemu) text+=" ($(built "$name"))" ;; esac
	done
	[ $left -gt 0 ] || text=
	printf '\r\033[K%s' "${text:0:$((${COLUMNS:-80} - 1))}"
}
hide_status() { [ ! -t 1 ] || printf '\r\033[K'; }

# show_skips DIR NAME...: print how often each reason was given.
show_skips()
{
	local name

	for name in "${@:2}"; do
		sed -nE "s/^ *ok [0-9]+ .* # SKIP (.*)/$name: \1/p" "$1/$name.ktap"
	done | sort | uniq -c | awk 'NR == 1 { print "\nskipped:" }
		{ n = $1; sub(/^ *[0-9]+ /, ""); print "    " n " x " $0 }'
}

# --- The results of a step: OUT/NAME.ktap and OUT/NAME.json

# one_result NAME OK TEXT: of a step without KTAP.  The end of its log explains a failure.
one_result()
{
	{
		printf 'KTAP version 1\n1..1\n'
		[ "$2" = ok ] || [ ! -s "$OUT/$1.log" ] || tail -n 30 "$OUT/$1.log" | tr -d '\000-\010\013-\037' | awk '{ print "# " $0 }'
		echo "$2 1 ${3//#/}"
	} > "$OUT/$1.ktap"
}

# add_failure NAME TEXT: to those that the step has had.
add_failure()
{
	local n

	n=$(($(sed -n '2s/^1\.\.//p' "$OUT/$1.ktap") + 1))
	sed -i -e "2s/.*/1..$n/" -e "\$a not ok $n $2" "$OUT/$1.ktap"
}

have_jq() { command -v jq > /dev/null; }

# record NAME VERDICT SECONDS PASSED FAILED SKIPPED WHY
record()
{
	local verdict=$2

	have_jq || return 0
	[ "$verdict" = ok ] || verdict=${FAULT[$1]:+infrastructure}
	sed -nE 's/^ *ok [0-9]+ (.*) # SKIP (.*)/\1\t\2/p' "$OUT/$1.ktap" | jq -nR \
		--arg name "$1" --arg kind "${KIND[$1]}" --arg verdict "${verdict:-failed}" --arg why "$7" \
		--argjson counted "$([ -z "${COUNTED[$1]-}" ] && echo false || echo true)" \
		--argjson numbers "[$3, $4, $5, $6]" \
		--arg seed "$(grep -ohE 'VFIO_SELFTESTS_SEED=[0-9]+' "$OUT/$1.log" 2>/dev/null | tail -n 1)" '{
			$name, $kind, $verdict, seconds: $numbers[0], passed: $numbers[1], failed: $numbers[2],
			skipped: $numbers[3], $why, $counted,
			seed: (if $seed == "" then null else $seed | ltrimstr("VFIO_SELFTESTS_SEED=") end),
			skips: [inputs | split("\t") | {test: .[0], reason: .[1]}]
		}' > "$OUT/$1.json"
}

# --- The results of a run: summary.json, junit.xml and NAME.ktap in RESULTS

# With the totals of the steps that count
TOTALS='def totals: . + (.steps | map(select(.counted)) | {
	passed: (map(.passed) | add // 0), failed: (map(.failed) | add // 0), skipped: (map(.skipped) | add // 0),
	status: (if any(.verdict == "failed") then 1 elif any(.verdict == "infrastructure") then 2 else 0 end) });
	def known: if . == "" then null else . end;'

publish()
{
	local name git=(git -C "$BUILD/linux") files=()

	have_jq || { msg "there is no jq to write junit.xml and summary.json"; return 0; }
	rm -f "$RESULTS"/*.ktap
	for name in "${ENDED[@]}"; do
		cp "$OUT/$name.ktap" "$RESULTS/"
		files+=("$OUT/$name.json")
	done
	[ -d "$BUILD/linux" ] || git=(false)
	jq -s --arg run "${LEVEL:-check}" --arg shard "$SHARD" --argjson seconds $SECONDS \
		--arg commit "$(git -C "$TOP" describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null)" \
		--arg kernel "$("${git[@]}" show base:Makefile 2>/dev/null |
			awk '/^(VERSION|PATCHLEVEL|SUBLEVEL) =/ { printf "%s%s", s, $3; s = "." }')" \
		--arg base "$("${git[@]}" rev-parse -q --verify 'base^{commit}' 2>/dev/null)" "$TOTALS"'
		{ version: 1, $run, shard: ($shard | known), commit: ($commit | known), kernel: ($kernel | known),
		  base: ($base | known), $seconds, steps: . } | totals' "${files[@]}" < /dev/null > "$RESULTS/summary.json"
	junit
}

# junit: let the kernel's tool convert one document with all steps that count.
junit()
{
	local tool=$BUILD/linux/tools/testing/kunit/kunit.py verdict name n=0 all

	rm -f "$RESULTS/junit.xml"
	all=$(jq '[.steps[] | select(.counted)] | length' "$RESULTS/summary.json")
	# (A part can be empty.)
	[ "$all" -gt 0 ] || return 0
	[ -r "$tool" ] || { msg "there is no junit.xml, because build/linux has no tools/testing/kunit/kunit.py"; return 0; }
	{
		printf 'KTAP version 1\n1..%s\n' "$all"
		while read -r verdict name; do
			n=$((n + 1))
			awk -v name="$name" '{ print "    " $0 } NR == 1 { print "    # Subtest: " name }' "$RESULTS/$name.ktap"
			[ "$verdict" = ok ] || verdict="not ok"
			echo "$verdict $n $name"
		done < <(jq -r '.steps[] | select(.counted) | "\(.verdict) \(.name)"' "$RESULTS/summary.json")
	} > "$LOGS/junit.ktap"
	PYTHONDONTWRITEBYTECODE=1 logged junit python3 "$tool" parse --junit="$RESULTS/junit.xml" "$LOGS/junit.ktap" || true
	[ "$(sed -n '2s/.* tests="\([0-9]*\)" failures="\([0-9]*\)" skipped="\([0-9]*\)" errors="0".*/\1 \2 \3/p' "$RESULTS/junit.xml" 2>/dev/null)" = \
	  "$(jq -r '"\(.passed + .failed + .skipped) \(.failed) \(.skipped)"' "$RESULTS/summary.json")" ] ||
		msg "junit.xml does not have the results of summary.json, see $LOGS/junit.log"
}

# merge DIR...: join the results of all parts of a run, print them, and exit.
merge()
{
	local dir problem verdict seconds name why counted=()

	have_jq || die "--merge needs jq"
	for dir; do [ -r "$dir/summary.json" ] || die "--merge: there is no $dir/summary.json"; done
	problem=$(jq -rs '
		map(.shard // "0/0" | split("/") | map(tonumber)) as $parts | ($parts | map(.[1]) | max) as $n |
		([range(1; $n + 1)] - ($parts | map(.[0]))) as $missing |
		if any(.shard == null) then "this is not a part of a run: \(.shard)"
		elif [map([.run, .commit]), ($parts | map(.[1])), map(.base | values)] |
		     any(.[]; unique | length > 1) then "these are parts of different runs"
		elif $missing != [] then "part \($missing[0]) of \($n) is missing"
		elif ($parts | length) > $n then "a part is there twice" else "" end' "${@/%//summary.json}") ||
		die "--merge: a summary.json cannot be read"
	[ -z "$problem" ] || die "--merge: $problem"
	mkdir -p "$RESULTS" "$LOGS"
	rm -f "$RESULTS"/*.ktap
	jq -s "$TOTALS"'.[0] + { shard: null, kernel: (map(.kernel | values) | first), base: (map(.base | values) | first),
		seconds: (map(.seconds) | max), steps: (map(.steps[] | select(.counted))) } | totals' \
		"${@/%//summary.json}" > "$RESULTS/summary.json.new"
	mv "$RESULTS/summary.json.new" "$RESULTS/summary.json"
	for dir; do
		jq -r '.steps[] | select(.counted) | .name + ".ktap"' "$dir/summary.json" |
			(cd "$dir" && xargs -r cp -t "$RESULTS")
	done
	while IFS=$'\t' read -r verdict seconds name why; do
		printf '%-6s %5s s  %-32s %s\n' "$verdict" "$seconds" "$name" "$why"
		counted+=("$name")
	done < <(jq -r '.steps[] | [(if .verdict == "ok" then "ok" else "FAILED" end), .seconds, .name, .why] | @tsv' "$RESULTS/summary.json")
	show_skips "$RESULTS" "${counted[@]}"
	junit
	echo
	jq -r '"\(.passed) passed, \(.failed) failed, \(.skipped) skipped"' "$RESULTS/summary.json"
	exit "$(jq .status "$RESULTS/summary.json")"
}
