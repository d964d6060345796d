"""A life in stages: each runs once, its result is kept, and a run that was killed goes on where it stopped."""

import io
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from hfcourse.pipeline.files import claim_folder, write_json

RESULT, ELAPSED, LOG = "stage.json", "elapsed.json", "log.txt"
SECONDS_BETWEEN_BEATS = 0.5
LINES_OF_LOG_SHOWN = 20


@dataclass(frozen=True)
class Stage:
    """One step of a life.

    name: its folder.
    title: what it does, for people.
    run: does it, in the folder that it is given, and returns its metrics (JSON). After a kill it is called again on
        the same folder, and goes on from what it finds there, or starts anew.
    summary: one line from the metrics: what was learnt.
    """

    name: str
    title: str
    run: Callable[[Path], dict]
    summary: Callable[[dict], str] = lambda metrics: ""


@dataclass(frozen=True)
class StageResult:
    """minutes: of every attempt at the stage, killed ones included, to half a second."""

    minutes: float
    metrics: dict


def run_stages(
    stages: list[Stage], folder: Path, settings: dict | None = None, console: Console | None = None
) -> dict[str, StageResult]:
    """Run the stages that have no result yet, in order; `folder/<name>/stage.json` is a stage's result.

    What a stage prints goes to `folder/<name>/log.txt`; the console shows its last line while it runs.

    Args:
        settings: what the results depend on beside the code (JSON). A folder of other settings is not gone on with.

    Returns:
        Results by name, those of earlier runs among them.

    Raises:
        InputError: the folder holds a run of other settings.
    """
    claim_folder(folder, settings or {})
    results: dict[str, StageResult] = {}
    with _own_terminal(console) as screen:
        for number, stage in enumerate(stages, 1):
            where = f"[{number}/{len(stages)}]"
            kept = read_result(folder / stage.name)
            results[stage.name] = kept or _run(stage, folder / stage.name, where, screen)
            seconds = f"{60 * results[stage.name].minutes:.0f} s" + (" (kept)" if kept else "")
            line = f"{where:>7} {stage.title:<34} {seconds:>12}   {stage.summary(results[stage.name].metrics)}"
            screen.print(line, markup=False, highlight=False, soft_wrap=True)
        total = sum(result.minutes for result in results.values())
        screen.print(f"{'':>7} {'total':<34} {60 * total:>10.0f} s", markup=False, highlight=False)
    return results


def read_result(folder: Path) -> StageResult | None:
    """A stage's result, or None if it has not finished."""
    if not (folder / RESULT).is_file():
        return None
    content = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    return StageResult(content["minutes"], content["metrics"])


def _run(stage: Stage, folder: Path, where: str, screen: Console) -> StageResult:
    folder.mkdir(parents=True, exist_ok=True)
    with _Clock(folder) as clock, screen.status(f"{where} {stage.title}") as status, _output_to(folder / LOG):
        clock.on_beat = lambda: status.update(_now(stage, folder, where, clock.seconds(), screen.width))
        try:
            metrics = stage.run(folder)
        except (Exception, SystemExit) as e:
            status.stop()
            print(f"{type(e).__name__}: {e}", flush=True)
            tail = (folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()[-LINES_OF_LOG_SHOWN:]
            screen.print("\n".join([f"{where} {stage.title} failed; {folder / LOG} ends:", *tail]), markup=False)
            raise
    minutes = clock.seconds() / 60
    write_json(folder / RESULT, {"name": stage.name, "minutes": minutes, "metrics": metrics})
    return StageResult(minutes, json.loads(json.dumps(metrics)))


def _now(stage: Stage, folder: Path, where: str, seconds: float, width: int) -> str:
    """What the status line says: the stage, its seconds, and the last thing that it printed (often a progress bar)."""
    with (folder / LOG).open("rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - 400))
        said = [part.strip() for part in log.read().decode("utf-8", "replace").replace("\r", "\n").split("\n")]
    last = next((part for part in reversed(said) if part), "").replace("[", "\\[")
    return f"\\{where} {stage.title}  {seconds:.0f} s  {last}"[: max(20, width - 4)]


class _Clock:
    """Seconds spent on a stage over all its attempts. Written down as they pass, for a kill gives no notice."""

    def __init__(self, folder: Path):
        self.path, self.on_beat = folder / ELAPSED, lambda: None
        self.before = json.loads(self.path.read_text())["seconds"] if self.path.is_file() else 0.0
        self.start, self.end, self.stop = time.monotonic(), None, threading.Event()
        self.thread = threading.Thread(target=self._beat, daemon=True)

    def seconds(self) -> float:
        return self.before + (self.end or time.monotonic()) - self.start

    def _beat(self):
        while not self.stop.wait(SECONDS_BETWEEN_BEATS):
            write_json(self.path, {"seconds": self.seconds()})
            self.on_beat()

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exception):
        self.stop.set()
        self.thread.join()
        self.end = time.monotonic()
        write_json(self.path, {"seconds": self.seconds()})


@contextmanager
def _own_terminal(console: Console | None) -> Iterator[Console]:
    """A console that still reaches the terminal while a stage's output goes to its log."""
    if console is not None:
        yield console
        return
    terminal = os.fdopen(os.dup(1), "w", encoding="utf-8")
    width = shutil.get_terminal_size((140, 24)).columns
    try:
        yield Console(file=terminal, width=width)
    finally:
        terminal.close()


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Append everything that this process prints to a file: C libraries, loggers and progress bars too."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        with redirect_stdout(_stream_of(1)), redirect_stderr(_stream_of(2)):
            yield
    finally:
        for file, number in zip(saved, (1, 2), strict=True):
            os.dup2(file, number)
            os.close(file)
        os.close(log)


def _stream_of(number: int) -> io.TextIOWrapper:
    # A notebook's sys.stdout is not file 1. Loggers that are made meanwhile keep this stream, which is never closed
    # and writes to whatever file 1 is by then.
    return io.TextIOWrapper(io.FileIO(number, "w", closefd=False), encoding="utf-8", write_through=True)
