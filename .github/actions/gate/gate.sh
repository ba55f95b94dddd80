#!/usr/bin/env bash
# The gate as a step of CI: one command, and with HISTORY_BRANCH a line of its history on a branch of its own.
# Everything comes by environment, never pasted into a script: names of revisions are somebody else's text.
set -euo pipefail

words=(gate "--base=${BASE:-auto}" "--head=${HEAD:-HEAD}" "--out=${OUT:-gate-result}")
if [ -n "${TARGET:-}" ]; then words+=("--target=$TARGET"); else
    words+=("--levels=${LEVELS:-L0,L1}" "--engines=${ENGINES:-olla,sherpa}")
fi
if [ -n "${LIMITS:-}" ]; then words+=("--limits=$LIMITS"); fi
if [ "${REQUIRE_MEASURED:-false}" = true ]; then words+=(--require-measured); fi

parent=""
if [ -n "${HISTORY_BRANCH:-}" ]; then
    history=$(mktemp)
    if git fetch --quiet origin "refs/heads/$HISTORY_BRANCH"; then
        parent=$(git rev-parse FETCH_HEAD)
        git show "$parent:gate.jsonl" > "$history"
    fi
    words+=("--history=$history")
fi

code=0
proxy-engines "${words[@]}" || code=$?

if [ -n "${HISTORY_BRANCH:-}" ] && [ -s "$history" ]; then
    proxy-engines gate trend --history "$history" || true
    if [ "${HISTORY_PUSH:-false}" = true ]; then
        tree=$(printf '100644 blob %s\tgate.jsonl\n' "$(git hash-object -w "$history")" | git mktree)
        commit=$(git -c user.name=gate -c user.email=gate@localhost commit-tree "$tree" ${parent:+-p "$parent"} -m "gate of ${GITHUB_SHA:-HEAD}")
        git push --quiet origin "$commit:refs/heads/$HISTORY_BRANCH"
    fi
fi

# 2 is "could not measure": the gate has said so in the summary and as a warning. REQUIRE_MEASURED makes it a 1.
if [ "$code" -eq 2 ]; then exit 0; fi
exit "$code"
