#!/bin/bash
# sbatch slurm-array.sh            audits; give it again to go on where it stopped
# Afterwards, anywhere:            platodef summary reports --manifest manifest.toml --exit-code
#SBATCH --job-name=platodef
#SBATCH --array=1-100
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
set -euo pipefail

# The features of the references are the same for all tasks: one cache on a file system that all nodes see.
export PLATODEF_CACHE_DIR="${PLATODEF_CACHE_DIR:-$PWD/platodef-cache}"
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"

# exec: the signal before the time limit reaches platodef, which ends in order
exec platodef audit-many "${MANIFEST:-manifest.toml}" \
  --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" -o "${REPORTS:-reports}"
