# SPDX-License-Identifier: GPL-2.0
#
# awk -v name=STEP [-v status=N -v why=TEXT] -v doc=FILE -f tools/ktap.awk LOG
#
# Write the results in the log of a step to FILE as one KTAP document, which
# tools/testing/kunit/kunit.py of the kernel reads completely, and print how many passed,
# failed and were skipped, and which failure no result explains.
#
# Documents in a row are joined.  Level 1 is a document that is nested in a result of level
# 0, by 2 or 4 spaces and with its own header; only the leaves count.  What is not a result
# becomes a comment.
# A failure that no result explains becomes a result: a plan that does not match, "Bail
# out!", a result of level 0 whose leaves all passed, an exit status other than 0.

function reset(l) {
	title[l] = body[l] = ""
	count[l] = bad[l] = seen[l] = 0
	planned[l] = -1
}
function put(l, text) { body[l] = body[l] (l ? "    " : "") text "\n" }
function comment(l, text) {
	if (text == "")
		return
	if (text ~ /: FAILED: /) {
		reason = text
		sub(/.*: FAILED: /, "", reason)
	}
	put(l, (text !~ /^#/ || text ~ /^# *Subtest:/ ? "# " : "") text)
}
# kunit.py allows no # in a name, and takes a result with the name of its document for
# the end of it.
function line(l, ok, text) {
	gsub(/#/, "", text)
	gsub(/^ +| +$/, "", text)
	return ok " " ++count[l] " " text (text == title[l] ? " itself" : "")
}
function leaf(l, ok, text, skip) {
	put(l, line(l, ok, text) (skip == "" ? "" : " # SKIP " skip))
	if (ok == "ok" && skip != "")
		skips++
	else if (ok == "ok")
		oks++
	else {
		nots++
		bad[l]++
	}
}
function skip_reason(text) {
	return sub(/.*# *(SKIP|XFAIL):? */, "", text) ? (text == "" ? "no reason given" : text) : ""
}
function broken_(l, text) { broken = 1; leaf(l, "not ok", text) }
function end_plan(l) {
	if (planned[l] >= 0 && seen[l] != planned[l])
		broken_(l, "results do not match the plan: " seen[l] " of " planned[l])
	planned[l] = -1
	seen[l] = 0
}
# The result of level 0 that ends a nested document.  A program that skips everything need
# not have results: it is a leaf then.
function close_nested(ok, text, skip,   parent) {
	end_plan(1)
	if (ok != "ok" && !bad[1])
		leaf(1, "not ok", reason == "" ? "failed without a result that explains it" : reason)
	if (!count[1] && skip != "") {
		leaf(0, ok, text, skip)
		nested = 0
		return
	}
	parent = line(0, ok, text)
	text = parent
	sub(/^(not )?ok [0-9]+ /, "", text)
	if (count[1])
		put(0, "    KTAP version 1\n    # Subtest: " text "\n    1.." count[1] "\n" body[1] parent)
	else {
		count[0]--
		broken_(0, text " has no results")
	}
	if (ok != "ok")
		bad[0]++
	nested = 0
	reason = ""
}
function handle(l, text,   ok, skip, n) {
	if (text ~ /^K?TAP version [0-9]+$/)
		end_plan(l)
	else if (text ~ /^1\.\.[0-9]+/) {
		end_plan(l)
		planned[l] = substr(text, 4) + 0
		if (planned[l] == 0 && skip_reason(text) != "") {
			leaf(l, "ok", "all tests", skip_reason(text))
			planned[l] = -1
		} else if (planned[l] == 0)
			broken_(l, "a plan without results")
	} else if (text ~ /^(not )?ok [0-9]+/) {
		ok = text ~ /^not/ ? "not ok" : "ok"
		skip = ok == "ok" ? skip_reason(text) : ""
		seen[l]++
		sub(/^(not )?ok [0-9]+ *(- )?/, "", text)
		if (skip != "")
			sub(/ *# *(SKIP|XFAIL).*/, "", text)
		if (l == 0 && nested)
			close_nested(ok, text, skip)
		else
			leaf(l, ok, text, skip)
	} else if (text ~ /^Bail out!/)
		broken_(l, text)
	else if (l == 1 && text ~ /^# Subtest: /)
		title[1] = substr(text, 12)
	else
		comment(l, text)
}
BEGIN { reset(0); title[0] = name }
{ gsub(/[\001-\010\013-\037\177]/, "") }
!nested && /^(  |    )K?TAP version [0-9]+$/ { nested = match($0, /[KT]/) - 1; reset(1) }
nested && substr($0, 1, nested) ~ /^ +$/ { handle(1, substr($0, nested + 1)); next }
{ handle(0, $0) }
END {
	if (nested) {
		close_nested("not ok", title[1] == "" ? "the last program" : title[1], "")
		planned[0] = -1
	}
	end_plan(0)
	if (status && why == "")
		why = "exit status " status
	said = ""
	if (oks + nots + skips == 0)
		leaf(0, "not ok", said = "no result" (why == "" ? "" : ", " why))
	else if (broken)
		said = "results do not match the plan" (why == "" ? "" : ", " why)
	else if (status && (!nots || status == 124 || status == 137))
		leaf(0, "not ok", said = why)
	printf "KTAP version 1\n1..%d\n%s", count[0], body[0] > doc
	print oks + 0, nots + 0, skips + 0, said
}
