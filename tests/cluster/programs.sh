#!/usr/bin/env bash
# Prints the folder of the programs that the tests run beside medsd: FOLDER/bin, FOLDER/kuberay-crds. build.sh fills it; up.sh,
# tests/programs.py and through it every test read it.
echo "${XDG_CACHE_HOME:-$HOME/.cache}/medsd/kube"
