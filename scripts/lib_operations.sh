# Sourced by rollback and rollforward, with `root` set: their options, their steps, the env file. Plain POSIX sh.
. "$root/scripts/lib_files.sh"

options_help() {
    cat <<'HELP'
Settings, as an option or a variable; the variables may stand in operations.conf beside scripts/, or in the file that
OPERATIONS_CONF names.
  --service compose|systemd[:SERVER[,WORKER…]]   SERVICE          what stops and starts the server and its workers
  --stop CMD --start CMD                         STOP_COMMAND, START_COMMAND      the same for anything else
  --restart CMD                                  RESTART_COMMAND  where there is nothing but a restart
  --env-file FILE   ENV_FILE        what the server's settings come from; by default .env
  --file FILE       MOVED_RUNS      where the runs go; by default moved-runs.jsonl beside the env file
  --url URL         SERVER_URL      the server; by default http://127.0.0.1:PORT
  --wait SECONDS    WAIT_SECONDS    how long the server may take to be healthy; by default 120
  --dry-run                         say what would be done; change nothing
HOLDFAST names the command, by default the checkout's or the one on the PATH.
HELP
}

# begin NAME [the script's own option] -- arguments: read the settings. Sets `own` where that option was given.
begin() {
    operation=$1 own_option=$2
    shift 3
    conf=${OPERATIONS_CONF:-$root/operations.conf}
    case $conf in */*) ;; *) conf=./$conf ;; esac
    [ ! -f "$conf" ] || . "$conf"
    service=${SERVICE:-} stop=${STOP_COMMAND:-} start=${START_COMMAND:-} restart=${RESTART_COMMAND:-}
    env_file=${ENV_FILE:-.env} file=${MOVED_RUNS:-} url=${SERVER_URL:-} wait_s=${WAIT_SECONDS:-120}
    dry_run='' own='' number=0 name=options began=$(date +%s)
    while [ $# -gt 0 ]; do
        case $1 in
        -h | --help) usage && options_help && exit 0 ;;
        --dry-run) dry_run=yes ;;
        "$own_option") own=yes ;;
        --service | --stop | --start | --restart | --env-file | --file | --url | --wait)
            [ $# -ge 2 ] || wrong "$1 takes a value"
            option=$1
            shift
            take "$option" "$1"
            ;;
        *) wrong "there is no option $1" ;;
        esac
        shift
    done
    settle
    trap 'failed "it was interrupted" "run the same command again"' INT TERM HUP
}

take() {
    case $1 in
    --service) service=$2 ;;
    --stop) stop=$2 ;;
    --start) start=$2 ;;
    --restart) restart=$2 ;;
    --env-file) env_file=$2 ;;
    --file) file=$2 ;;
    --url) url=$2 ;;
    --wait) wait_s=$2 ;;
    esac
}

# Find the command, the files and how the server is stopped and started.
settle() {
    [ -f "$env_file" ] || wrong "there is no $env_file: name the server's with --env-file"
    [ ! -L "$env_file" ] || wrong "$env_file is a link, which would be replaced: name the file itself with --env-file"
    env_file=$(CDPATH='' cd -- "$(dirname -- "$env_file")" && pwd -P)/$(basename -- "$env_file")
    if [ "$service" = compose ]; then
        # In a container beside the others, with the settings that docker-compose.yml gives them.
        compose='docker compose --profile app'
        HOLDFAST=${HOLDFAST:-$compose run --rm -T --no-deps app}
        file=${file:-/var/lib/holdfast/moved-runs.jsonl} url=${url:-http://app:3456}
    else
        find_holdfast
    fi
    find_service
    file=${file:-$(dirname -- "$env_file")/moved-runs.jsonl}
    case $file in
    *[!A-Za-z0-9._/@+-]*) wrong "--file takes letters, digits and ._/@+- only, so that any env file can hold it" ;;
    /*) ;;
    *) file=$(pwd -P)/$file ;;
    esac
    port=$(setting PORT)
    url=${url:-http://127.0.0.1:${port:-3456}}
}

# Workers have nothing to do while runs are in memory: `start_memory` leaves them out.
find_service() {
    case $service in
    '') start_memory=$start ;;
    compose) stop="$compose stop app worker" start="$compose up -d app worker" start_memory="$compose up -d app" ;;
    systemd | systemd:?*)
        units=${service#systemd}
        units=$(printf %s "${units#:}" | tr , ' ')
        units=${units:-holdfast}
        stop="systemctl stop $units" start="systemctl start $units" start_memory="systemctl start ${units%% *}"
        ;;
    *) wrong "--service takes compose or systemd[:SERVER[,WORKER…]], not $service" ;;
    esac
    [ -n "$stop$start$restart" ] || wrong "say what restarts the server: --service, --stop with --start, or --restart"
    if [ -n "$stop$start" ]; then
        [ -n "$stop" ] && [ -n "$start" ] || wrong "--stop and --start go together"
        restart=''
    fi
}

say() { printf '    %s\n' "$*"; }

# step NAME what it is about to do
step() {
    name=$1
    shift
    number=$((number + 1))
    printf '==> %s %s: %s (after %s s)\n' "$number" "$name" "$*" "$(elapsed)"
}
elapsed() { echo "$(($(date +%s) - began))"; }

failed() {
    trap - INT TERM HUP
    printf 'FAILED %s at step %s (%s): %s; %s\n' "$operation" "$number" "$name" "$1" "$2"
    exit 1
}
succeeded() {
    [ -z "$dry_run" ] || set -- "nothing was changed, for this was a dry run"
    printf 'OK %s in %s s: %s\n' "$operation" "$(elapsed)" "$1"
    exit 0
}

# holdfast, with the server's settings.
hf() {
    if [ "$service" = compose ]; then hold "$@"; else hold --env-file "$env_file" "$@"; fi </dev/null
}
# Say a command and do it; with --dry-run only say it.
act() {
    shown=$*
    case $shown in hf\ *) shown="holdfast ${shown#hf }" ;; esac
    say "\$ ${shown#sh -c }"
    [ -n "$dry_run" ] || "$@"
}
# A command of the service.
control() { act sh -c "$1" </dev/null; }

# Write every unfinished run to the file, taken out of PostgreSQL. What root writes belongs to the directory's owner, as
# the server does that is to read it.
export_runs() {
    act hf runs export --active --leave "$file" || return
    if [ "$(id -u)" = 0 ] && [ "$service" != compose ]; then
        act chown -- "$(ls -ldn -- "$(dirname -- "$file")" | awk '{ print $3 }')" "$file" "$file.lock"
    fi
}

# Where the file of runs is from: postgres, memory, missing; or fail.
origin() {
    if summary=$(hf runs verify "$file" --json); then
        printf '%s\n' "$summary" | sed -n 's/.*"from": "\([a-z]*\)".*/\1/p'
    else
        case $summary in *'"missing": true'*) echo missing ;; *) return 1 ;; esac
    fi
}
is_on() { hf health --url "$url" --expect "$1" >/dev/null 2>&1; }

# The last value of a setting in the env file, without its quotes.
setting() {
    awk -v wanted="$1" '
        { sub(/^[ \t]*(export[ \t]+)?/, ""); at = index($0, "="); key = substr($0, 1, at - 1); sub(/[ \t]+$/, "", key) }
        at && toupper(key) == wanted { value = substr($0, at + 1) }
        END {
            sub(/^[ \t]+/, "", value)
            quote = substr(value, 1, 1)
            if (quote == "\"" || quote == "\047") { value = substr(value, 2); sub(quote ".*", "", value) }
            else { sub(/[ \t]+#.*/, "", value); sub(/[ \t\r]+$/, "", value) }
            print value
        }' "$env_file"
}
flag() {
    said=$(setting USE_POSTGRES_SAVER | tr '[:upper:]' '[:lower:]')
    # docker-compose.yml has it on where .env does not say.
    [ "$service" != compose ] || said=${said:-on}
    case $said in
    true | 1 | yes | on) echo on ;;
    false | 0 | no | off) echo off ;;
    *) return 1 ;;
    esac
}

# write_flag true|false MEMORY_SNAPSHOT: replace the env file in one move, with its owner and rights.
write_flag() {
    say "in $env_file: USE_POSTGRES_SAVER=$1, MEMORY_SNAPSHOT=${2:-not set}"
    if [ -n "$dry_run" ]; then return 0; fi
    cp -p -- "$env_file" "$env_file.new" || return
    {
        awk '{ line = $0; sub(/^[ \t]*(export[ \t]+)?/, "", line); key = toupper(substr(line, 1, index(line, "=") - 1))
               sub(/[ \t]+$/, "", key) }
             key != "USE_POSTGRES_SAVER" && key != "MEMORY_SNAPSHOT"' "$env_file" || return
        printf 'USE_POSTGRES_SAVER=%s\n' "$1"
        [ -z "$2" ] || printf 'MEMORY_SNAPSHOT=%s\n' "$2"
    } >"$env_file.new" || return
    mv -f -- "$env_file.new" "$env_file"
}
