"""Run a script as several processes on the CPU, with the environment that torchrun gives."""

import os
import socket
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def run_on_processes(script: str | Path, *args: str, processes: int = 2, timeout: float = 120) -> list[str]:
    """Start `python script args…` once a rank (gloo) and wait; the stdout of each rank, in order.

    Fails with the stderr of the ranks that failed.
    """
    port = str(_free_port())
    running = [_start(script, args, rank, processes, port) for rank in range(processes)]
    try:
        outputs = [process.communicate(timeout=timeout) for process in running]
    finally:
        for process in running:
            process.kill()
    failed = [
        f"rank {r}:\n{err[-3000:]}"
        for r, (p, (_, err)) in enumerate(zip(running, outputs, strict=True))
        if p.returncode
    ]
    assert not failed, "\n".join(failed)
    return [out for out, _ in outputs]


def _start(script, args, rank: int, processes: int, port: str) -> subprocess.Popen:
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": 1}
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": path} | {name: str(value) for name, value in (ranks | place).items()}
    return subprocess.Popen(
        [sys.executable, str(script), *args], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def accelerate_launch(recipe: str, *args: str, processes: int = 2, timeout: float = 240) -> str:
    """`accelerate launch --config_file accelerate_configs/cpu_multi_process.yaml recipes/X.py args…`; its stdout."""
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(REPOSITORY / "accelerate_configs" / "cpu_multi_process.yaml")]
    command += ["--num_processes", str(processes), "--main_process_port", str(_free_port())]
    command += [str(REPOSITORY / "recipes" / f"{recipe}.py"), *map(str, args)]
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
