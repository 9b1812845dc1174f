#!/bin/sh
# programs.sh OUT PYTHON_URL CURL_URL NODE_URL GIT_URL: five programs at once, and what each printed and ended with, in OUT.
out=$1
here=$(dirname "$0")
pii=/srv/pii
run() {
    name=$1
    shift
    "$@" > "$out/$name.out" 2> "$out/$name.err"
    echo $? > "$out/$name.status"
}
cd "$out" || exit 1
# The slowest first.
run node node "$here/agent.js" "$4" $pii/node.csv "$out/node.pause" &
run python python3 "$here/agent.py" "$2" $pii/python.csv "$out/python.pause" &
run git git clone --quiet "$5" clone &
run curl curl --silent --verbose --max-time 300 "$3" &
run cat cat $pii/cat.csv &
wait
