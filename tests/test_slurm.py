"""The batch scripts of examples/slurm, run as SLURM would run them, with a stub fgvr and a fake scontrol and sbatch."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
# notes its words; where it is told to, it works for a minute, and on a signal leaves a partial result, as fgvr does
STUB = """\
#!/usr/bin/env bash
printf '%s\\n' "$*" >> calls
for ((i = 1; i < $#; i++)); do [ "${!i}" != -o ] || { j=$((i + 1)); out=${!j}; }; done
[ -n "${out:-}" ] || exit 0
if [ "${SLOW:-}" = "$1" ]; then
  [ "${FAIL:-}" != "$1" ] || exit 1
  trap 'echo half > "$out.partial"; exit 143' TERM
  trap 'echo half > "$out.partial"; exit 75' USR1
  touch working
  for ((i = 0; i < 600; i++)); do sleep 0.1; done
fi
rm -f "$out.partial"
case $1 in align | tune) mkdir -p "$out"; touch "$out" ;; *) printf '%s\\n' "$*" > "$out" ;; esac
"""
# sbatch [--wait] --array=1-N SCRIPT WORDS: every task, one after the other
SBATCH = """\
#!/usr/bin/env bash
set -e
[ "$1" = --wait ]; shift
export SLURM_ARRAY_TASK_COUNT=${1#--array=1-}; shift
script=$1; shift
for ((k = 1; k <= SLURM_ARRAY_TASK_COUNT; k++)); do SLURM_ARRAY_TASK_ID=$k bash "$script" "$@"; done
"""


class Cluster:
    def __init__(self, root: Path) -> None:
        self.root = root
        for path in ("Makefile", "setup.cfg", "constraints.txt"):
            shutil.copy(TOP / path, root)
        shutil.copytree(TOP / "examples" / "slurm", root / "examples" / "slurm")
        for fragment in (TOP / "examples").glob("*.mk"):
            shutil.copy(fragment, root / "examples")
        (root / "bin").mkdir()
        for name, text in (("fgvr", STUB), ("scontrol", "#!/bin/sh\necho scontrol $* >> calls\n"), ("sbatch", SBATCH)):
            (root / "bin" / name).write_text(text)
            (root / "bin" / name).chmod(0o755)
        keep = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "SLURM"))}
        path = f"{root / 'bin'}:{os.environ['PATH']}"
        self.env = {**keep, "PATH": path, "FGVR": "bin/fgvr", "SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(root)}

    def job(self, *words: str, **env: str) -> subprocess.Popen[str]:
        """A script (all.sbatch) on a node, from another folder and with no say over its process group."""
        script, *given = words or ("all.sbatch", "SEED=3")
        return subprocess.Popen(
            ["bash", str(self.root / "examples/slurm" / script), *given], cwd="/", env={**self.env, **env}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def stop(self, job: subprocess.Popen[str], signum: int) -> tuple[int, list[str]]:
        """Send a signal to the batch script alone (SLURM's B:), once a stage works; its status and the last calls."""
        for _ in range(2400):
            if (self.root / "working").exists():
                break
            time.sleep(0.05)
        (self.root / "working").unlink()
        os.kill(job.pid, signum)
        job.communicate(timeout=120)
        return job.returncode, self.calls()

    def calls(self) -> list[str]:
        lines = (self.root / "calls").read_text().splitlines()
        (self.root / "calls").unlink()
        return lines


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []), "a job inherits this, and would be deaf"
    return Cluster(tmp_path)


@pytest.mark.parametrize("stage", ["extract-attrs", "align"])
def test_a_job_out_of_time_stops_requeues_itself_and_goes_on(cluster: Cluster, stage: str) -> None:
    status, calls = cluster.stop(cluster.job(SLOW=stage), signal.SIGUSR1)
    assert (status, calls[-1]) == (0, "scontrol requeue 7")
    assert calls[-2].startswith(stage)
    left = {"extract-attrs": "extracted.jsonl.partial", "align": "align.partial"}[stage]
    assert (cluster.root / "runs/toy" / left).read_text() == "half\n", "the stage was told to stop, not killed"

    again = cluster.job()
    again.communicate(timeout=300)
    calls = cluster.calls()
    assert again.returncode == 0
    assert calls[0].startswith(f"{stage} ") and " --resume " in calls[0]
    assert not any(call.startswith("scontrol") for call in calls)


def test_a_cancelled_job_is_not_requeued(cluster: Cluster) -> None:
    status, calls = cluster.stop(cluster.job(SLOW="tune"), signal.SIGTERM)
    assert status != 0 and calls[-1].startswith("tune ")
    assert (cluster.root / "runs/toy/tune.partial").exists()


def test_a_failed_job_is_not_requeued(cluster: Cluster) -> None:
    job = cluster.job(SLOW="tune", FAIL="tune")
    job.communicate(timeout=300)
    assert job.returncode == 2 and cluster.calls()[-1].startswith("tune ")


def test_an_array_of_parts_and_cat(cluster: Cluster) -> None:
    script = (cluster.root / "examples/slurm/extract-array.sbatch").read_text().splitlines()
    shown = [line.removeprefix("#     ") for line in script if line.startswith("#     ")]
    assert len(shown) == 4
    for line in shown:
        for theirs, here in {"DATASET=folder ...": "VQA=hf:org/model", "8": "3", "/photos": "runs/x/images"}.items():
            line = line.replace(theirs, here)
        subprocess.run(["bash", "-euc", line], cwd=cluster.root, env=cluster.env, check=True, stdout=subprocess.DEVNULL)
    parts = [call for call in cluster.calls() if call.startswith("extract-attrs")]
    assert [call.split("--shard ")[1].split()[0] for call in parts] == ["1/3", "2/3", "3/3"], "make did not do it again"
    assert all(call.startswith("extract-attrs --model hf:org/model --image-root runs/x/images") for call in parts)
    assert (cluster.root / "runs/x/extracted.jsonl").read_text().splitlines() == parts


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGUSR1, 0), (signal.SIGTERM, 143)])
def test_a_part_out_of_time_stops_and_only_then_requeues_itself(cluster: Cluster, signum: int, status: int) -> None:
    (cluster.root / "runs/x").mkdir(parents=True)
    task = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_JOB_ID": "5"}
    words = ("extract-array.sbatch", "runs/x", "photos", "hf:org/model")
    ended, calls = cluster.stop(cluster.job(*words, SLOW="extract-attrs", **task), signum)
    assert ended == status and calls[1:] == ([] if status else ["scontrol requeue 7"])
    assert (cluster.root / "runs/x/extracted.2-of-3.jsonl.partial").read_text() == "half\n"


# srun [--options] COMMAND …: two tasks on one node. As the real one, it hands USR1 on, and answers TERM with their end
SRUN = """\
#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
echo "$SRUN_CPUS_PER_TASK" > cpus
for n in 0 1; do SLURM_NTASKS=2 SLURM_PROCID=$n SLURM_LOCALID=$n "$@" & tasks+=($!); done
trap 'kill -USR1 "${tasks[@]}"' USR1
trap 'kill -KILL "${tasks[@]}"' TERM
trap '' INT
status=0
for task in "${tasks[@]}"; do
  while kill -0 "$task" 2> /dev/null; do wait "$task"; done
  wait "$task" || status=$?
done
exit $status
"""
PROCESS = """\
#!/usr/bin/env bash
echo "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT $*" >> calls
trap 'touch "stopped-$RANK"; exit 75' USR1 TERM
[ -z "${SLOW:-}" ] || { touch "working-$RANK"; for ((i = 0; i < 600; i++)); do sleep 0.1; done; }
"""


@pytest.mark.parametrize("signum", [None, signal.SIGUSR1, signal.SIGTERM])
def test_several_nodes_stop_together_and_requeue(cluster: Cluster, signum: int | None) -> None:
    """Out of time they go back into the queue; on TERM for the script alone (scancel --batch) they just stop."""
    scontrol = "#!/bin/sh\n[ $1 = show ] && printf 'n1\\nn2\\n' || echo scontrol $* >> calls\n"
    for name, text in (("srun", SRUN), ("fgvr", PROCESS), ("scontrol", scontrol)):
        (cluster.root / "bin" / name).write_text(text)
        (cluster.root / "bin" / name).chmod(0o755)
    env = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_CPUS_PER_TASK": "6", "SLOW": "yes" if signum else ""}
    job = cluster.job("align-nodes.sbatch", "align", "-o", "out dir", **env)
    if signum:
        for _ in range(2400):
            if len(list(cluster.root.glob("working-*"))) == 2:
                break
            time.sleep(0.05)
        os.kill(job.pid, signum)
    job.communicate(timeout=120)
    assert job.returncode == (75 if signum == signal.SIGTERM else 0)
    calls = cluster.calls()
    started = [f"{n} {n} 2 n1 20007 align -o out dir --resume" for n in range(2)]
    requeued = ["scontrol requeue 7"] if signum == signal.SIGUSR1 else []
    assert sorted(calls[:2]) == started and calls[2:] == requeued
    assert len(list(cluster.root.glob("stopped-*"))) == (2 if signum else 0), "told to stop, not killed"
    assert (cluster.root / "cpus").read_text() == "6\n", "srun does not take over the job's"
