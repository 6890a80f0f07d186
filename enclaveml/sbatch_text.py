"""The shell text of batch scripts, in the pieces that ``sbatch.script`` puts together.

The same text stands in slurm/checkpoint.sbatch and slurm/heterogeneous.sbatch, to be read there;
a test compares them.
"""

from __future__ import annotations

#: Where EnclaveML is.
ENVIRONMENT = r'''
# The environment that EnclaveML is installed in; or put `module load` lines here.
if [ -n "${VENV:-}" ]; then source "$VENV/bin/activate"; fi
'''.lstrip("\n")

#: SIGUSR1 goes on to mpirun.
TRAP = r'''
# A shell runs a trap only between commands, so mpirun is started in the background and waited
# for. mpirun passes SIGUSR1 on to every rank; SIGTERM would make it kill them.
signals=0
launched=
trap 'signals=$((signals + 1)); [ -z "$launched" ] || kill -USR1 "$launched"' USR1
'''.lstrip("\n")

#: mpirun on nodes of one kind.
RUN = r'''
mpirun --bind-to none ${MPIRUN_OPTIONS-} enclaveml-run "$@" &
'''.lstrip("\n")

#: The nodes of all parts of a heterogeneous job.
NODES_FILE = r'''
# Open MPI's mpirun sees the nodes of part 0 only (5.0.11). So it gets all nodes from a file, in
# the order of the parts, and an agent that starts its daemon on a node with srun, in the part
# that the node belongs to.
place=$(mktemp -d) || exit 4
trap 'rm -rf "$place"' EXIT
ranks=0
for ((part = 0; part < SLURM_HET_SIZE; part++)); do
  nodes=SLURM_JOB_NODELIST_HET_GROUP_$part
  count=SLURM_JOB_NUM_NODES_HET_GROUP_$part
  tasks=SLURM_NTASKS_HET_GROUP_$part
  for node in $(scontrol show hostnames "${!nodes}"); do
    echo "$node slots=$((${!tasks} / ${!count}))" >>"$place/nodes"
    echo "$node $part" >>"$place/parts"
  done
  ranks=$((ranks + ${!tasks}))
done
'''.lstrip("\n")

#: Starts mpirun's daemon on a node.
AGENT = r'''
cat >"$place/agent" <<'END'
#!/bin/bash
# Called as: agent NODE COMMAND. The daemon must stay in the foreground: a step ends with its task.
part=$(awk -v node="$1" '$1 == node {print $2}' "$(dirname "$0")/parts")
command=${*:2}
exec srun --het-group="$part" --nodelist="$1" --nodes=1 --ntasks=1 --mpi=none \
  bash -c "${command/ --daemonize/}"
END
chmod +x "$place/agent"
'''.lstrip("\n")

#: mpirun on all parts.
HETEROGENEOUS_RUN = r'''
# "plm ssh" is the launcher that takes an agent; nothing goes through ssh here.
mpirun --bind-to none --np "$ranks" --hostfile "$place/nodes" --prtemca ras ^slurm \
  --prtemca plm ssh --prtemca plm_ssh_agent "$place/agent" --prtemca plm_ssh_no_tree_spawn 1 \
  ${MPIRUN_OPTIONS-} enclaveml-run "$@" &
'''.lstrip("\n")

#: Waits for mpirun, reads how the job ended, requeues.
LAUNCH = r'''
launched=$!

# A wait that the trap interrupts says nothing of mpirun: wait again.
heard=-1
while [ "$heard" != "$signals" ]; do
  heard=$signals
  wait "$launched"
  code=$?
done

# mpirun's own status is not the job's: the results file decides. 75: stopped early, resumable.
enclaveml outcome --launcher "$code" "$@"
code=$?

# A job that gets nowhere must not go round for ever.
if [ "$code" = 75 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "${MAX_REQUEUES:-100}" ]; then
  echo "requeue ${SLURM_RESTART_COUNT:-0} + 1 of at most ${MAX_REQUEUES:-100}"
  scontrol requeue "$SLURM_JOB_ID" && sleep 60 # Slurm ends this script while it sleeps
fi
exit "$code"
'''.lstrip("\n")
