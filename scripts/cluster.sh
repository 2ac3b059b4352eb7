#!/usr/bin/env bash
# Runs compose.yaml's node on this machine: `cluster.sh up | test | down`. Where no docker answers, root gets a daemon
# that lives in .build/cluster alone; where images come from no registry, the base is made of Debian's packages.
#
# Settings: DOCKER_HOST (unix:// only), BASE_IMAGE, BEEMESH_PORT (7443), CLUSTER_POOL, and pip's own.
set -euo pipefail
cd "$(dirname "$0")/.."
here=$PWD/.build/cluster
kept=$here/settings
python=.venv/bin/python
OWN_BASE=beemesh-base:bookworm
PUBLIC_BASE=python:3.11-slim-bookworm
PATH=$PWD/.venv/bin:$PWD/.build/bin:$PATH:/usr/local/sbin:/usr/sbin:/sbin # not every user has the last ones

say() { echo "cluster: $*" >&2; }
fail() { say "$@"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

compose() {
  if docker compose version >/dev/null 2>&1; then docker compose "$@"; else docker-compose "$@"; fi
}

# What `up` has found out, for whoever comes later; DOCKER_HOST and the like are exported.
remember() { printf 'export %s=%q\n' "$1" "$2" >>"$kept" && export "$1=$2"; }

recall() {
  [ -f "$kept" ] || return 1
  # shellcheck disable=SC1090
  . "$kept"
}

# Whether the docker is the cluster's own.
own() { [ -e "$here/daemon.json" ]; }

answers() { timeout 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# --- docker

find_docker() {
  have docker || fail "needs docker's client: apt-get install docker.io"
  if own; then
    answers || start_docker
  elif [ -n "${DOCKER_HOST:-}" ]; then
    [[ $DOCKER_HOST == unix://* ]] || fail "DOCKER_HOST=$DOCKER_HOST: only unix:// can be given to a container"
    answers || fail "DOCKER_HOST=$DOCKER_HOST does not answer"
  elif DOCKER_HOST=unix:///var/run/docker.sock answers; then
    DOCKER_HOST=unix:///var/run/docker.sock
  else
    start_docker
  fi
  own || remember DOCKER_HOST "$DOCKER_HOST"
  remember DOCKER_SOCKET "${DOCKER_HOST#unix://}"
  remember DOCKER_GID "$(stat -c %g "${DOCKER_HOST#unix://}")"
}

# A daemon of the cluster's own. It has no default bridge and leaves iptables alone: two daemons, and podman's networks,
# would take each other's rules away. Its workloads reach each other and this machine, not the world.
start_docker() {
  [ "$(id -u)" = 0 ] || fail "no docker answers, and only root can start one: start it, or set DOCKER_HOST"
  have dockerd || fail "no docker answers, and dockerd is not here: apt-get install docker.io"
  [ ${#here} -lt 70 ] || fail "$here is too long a path for sockets: set DOCKER_HOST"
  say "starting a docker in ${here#"$PWD"/}"
  end_process "$here/dockerd.pid"
  end_process "$here/exec/containerd/containerd.pid"
  remember DOCKER_HOST "unix://$here/docker.sock"
  echo '{}' >"$here/daemon.json"
  setsid dockerd --config-file "$here/daemon.json" --pidfile "$here/dockerd.pid" \
    --data-root "$here/docker" --exec-root "$here/exec" --host "unix://$here/docker.sock" --group root \
    --bridge=none --iptables=false --ip6tables=false --ip-forward=false \
    --default-address-pool "base=${CLUSTER_POOL:-10.200.0.0/20},size=28" \
    >"$here/dockerd.log" 2>&1 </dev/null 9>&- &
  until answers; do
    kill -0 $! 2>/dev/null || { tail -5 "$here/dockerd.log" >&2; fail "dockerd does not start"; }
    sleep 0.2
  done
}

stop_docker() {
  local mount
  end_process "$here/dockerd.pid"
  end_process "$here/exec/containerd/containerd.pid" # outlives a daemon that was killed
  # What is left mounted, the innermost first.
  for mount in $(awk -v below="$here/" 'index($2, below) == 1 {print $2}' /proc/mounts | sort -r); do
    umount -l "$mount"
  done
}

# Ends a daemon of the cluster's own by the pid that it wrote into a file; the next one would take the file for its life.
end_process() {
  local pid
  pid=$(cat "$1" 2>/dev/null || true)
  ! is_own "$pid" || kill "$pid"
  for _ in $(seq 100); do is_own "$pid" || break; sleep 0.2; done
  ! is_own "$pid" || kill -9 "$pid"
  rm -f "$1"
}

# A pid may have gone to another program, or to a zombie, since it was written down.
is_own() { [ -n "$1" ] && tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline" | grep -qF -- "$here/"; }

# --- images

has_image() { docker image inspect "$1" >/dev/null 2>&1; }

choose_base() {
  if [ -z "${BASE_IMAGE:-}" ]; then
    BASE_IMAGE=$OWN_BASE
    if has_image "$PUBLIC_BASE" || timeout 120 docker pull -q "$PUBLIC_BASE" >/dev/null 2>&1; then
      BASE_IMAGE=$PUBLIC_BASE
    fi
  fi
  if [ "$BASE_IMAGE" = "$OWN_BASE" ] && ! has_image "$OWN_BASE"; then
    say "no image registry: making $OWN_BASE"
    scripts/base_image.sh "$OWN_BASE" >&2
  fi
  remember BASE_IMAGE "$BASE_IMAGE"
}

# pip's index is told to the build, and neither kept here nor in an image that has a name.
build() {
  local builder=()
  docker buildx version >/dev/null 2>&1 || builder=(env DOCKER_BUILDKIT=0)
  PIP_INDEX_URL=${PIP_INDEX_URL:-$(pip_setting index-url)}
  PIP_EXTRA_INDEX_URL=${PIP_EXTRA_INDEX_URL:-$(pip_setting extra-index-url)}
  export PIP_INDEX_URL PIP_EXTRA_INDEX_URL
  local name arguments=(--build-arg "BASE_IMAGE=$BASE_IMAGE")
  for name in PIP_INDEX_URL PIP_EXTRA_INDEX_URL {HTTP,HTTPS,NO}_PROXY {http,https,no}_proxy; do
    [ -z "${!name:-}" ] || arguments+=(--build-arg "$name") # whose value is in the environment
  done
  "${builder[@]}" docker build --quiet --network host --file deploy/Dockerfile --tag beemesh:local \
    "${arguments[@]}" . >"$here/build.log" 2>&1 ||
    { tail -30 "$here/build.log" >&2; fail "the image cannot be built"; }
  [ -z "$PIP_INDEX_URL$PIP_EXTRA_INDEX_URL" ] || forget_stage
}

pip_setting() { "$python" -m pip config get "global.$1" 2>/dev/null || true; }

# The build's first stage: what the build was told of pip's index stands in its history.
forget_stage() { docker image prune --force --filter label=io.beemesh.stage=build >/dev/null; }

# --- up, test, down

up() {
  mkdir -p "$here"
  chmod 700 "$here"
  if recall; then say "it was begun before; going on with its settings"; fi
  find_docker
  remember BEEMESH_PROJECT "${BEEMESH_PROJECT:-beemesh}"
  remember BEEMESH_PORT "${BEEMESH_PORT:-7443}"
  mkdir -p "$here/files"
  remember BEEMESH_COMPOSE_FILES "$here/files"
  choose_base
  say "building beemesh:local on $BASE_IMAGE"
  build
  say "starting"
  compose --progress quiet up --detach --no-build --wait --wait-timeout 300 ||
    { compose logs --tail 20 >&2; fail "it does not start"; }
  (umask 077 && compose exec -T orchestrator cat /run/beemesh/token >"$here/token")
  remember BEEMESH_NODE_ID "$(compose exec -T orchestrator beectl version | grep -oE '\b[0-9a-f]{40}\b' | head -1)"
  say "127.0.0.1:$BEEMESH_PORT, token in ${here#"$PWD"/}/token"
}

run_tests() {
  recall || fail "no cluster: make cluster-up"
  BEEMESH_CLUSTER=$here exec "$python" -m pytest tests/cluster "$@"
}

down() {
  if recall; then
    if own && ! answers; then start_docker; fi # what a daemon that was killed has left running, only a daemon ends
    answers || fail "${DOCKER_HOST:-docker} does not answer: start it, then repeat; else its containers would be left"
    if [ -n "${DOCKER_GID:-}" ]; then compose --progress quiet down --volumes --remove-orphans --timeout 15; fi
    remove_workloads
    own || remove_images
  fi
  if own; then stop_docker; fi
  rm -rf --one-file-system "$here"
}

# The node's own workloads, by its label; a node that is stopped leaves them running.
remove_workloads() {
  local mine=label=beemesh.io/node-id=${BEEMESH_NODE_ID:-}
  [ -n "${BEEMESH_NODE_ID:-}" ] || return 0
  docker ps --all --quiet --filter "$mine" | xargs -r docker rm --force --volumes >/dev/null
  docker network ls --quiet --filter "$mine" | xargs -r docker network rm >/dev/null
  docker volume ls --quiet --filter "$mine" | xargs -r docker volume rm >/dev/null
}

remove_images() {
  forget_stage
  docker image rm beemesh:local "$OWN_BASE" >/dev/null 2>&1 || true
}

mkdir -p .build
exec 9>.build/cluster.lock
flock 9 # two makes at once wait for each other
case ${1:-} in
  up) up ;;
  test) run_tests "${@:2}" ;;
  down) down ;;
  *) say "usage: cluster.sh up | test | down" && exit 2 ;;
esac
