"""Jobs of a study: commands in processes of their own, several at a time.

A job that fails stops no other. One that succeeds leaves FOLDER/finished.json and is not done
again. Its output is in FOLDER/log.txt. Processes hold the study's lock as long as they live, so
that a study that was killed and started again waits for those it left behind; and they are asked to
stop when the study dies.
"""

import dataclasses
import datetime
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import logging

from ldx.common.errors import UserError
from ldx.common.files import write_json
from ldx.common.interrupt import Interrupted, StopRequest
from ldx.common.memory import memory_limit

FINISHED_NAME = "finished.json"
LOG_NAME = "log.txt"
POLL_SECONDS = 0.1
NUM_LAST_LINES = 3


@dataclasses.dataclass
class Job:
    """A command to run.

    Attributes:
      name: what messages call it.
      kind: jobs of the same kind take about as long as each other.
      command: program and arguments.
      folder: the folder of its log and of the file that marks it as finished.
      needs: names of jobs that must have succeeded before it.
      after: names of jobs that must have ended before it, whether they succeeded or not.
      before: a function that is called right before it starts.
    """

    name: str
    kind: str
    command: Sequence[str]
    folder: Path
    needs: Sequence[str] = ()
    after: Sequence[str] = ()
    before: Callable[[], None] = lambda: None

    @property
    def is_finished(self) -> bool:
        """Whether it succeeded, now or in an earlier run of the study."""
        return (self.folder / FINISHED_NAME).is_file()


@dataclasses.dataclass
class _Running:
    job: Job
    process: subprocess.Popen
    begin: float


class JobRunner:
    """Runs jobs, at most `max_parallel` at once.

    Args:
      jobs: they start in this order, as far as what they need allows.
      max_parallel: the most processes at once.
      stop: asked for, it is passed on to the processes, and the runner waits for their end.
      keep_open: a file descriptor that the processes keep open, the study's lock.
    """

    def __init__(self, jobs: Sequence[Job], max_parallel: int, stop: StopRequest, keep_open: int):
        self._jobs, self._max_parallel = jobs, max_parallel
        self._stop, self._keep_open = stop, keep_open
        self._running: list[_Running] = []
        self._waiting = [job for job in jobs if not job.is_finished]
        self._done = {job.name for job in jobs if job.is_finished}
        self._seconds: dict[str, list[float]] = {}
        self.failed: dict[str, str] = {}
        """Why jobs failed, or could not start because another failed, by name."""

    def run(self) -> None:
        """Run all jobs; afterwards `failed` names those that did not succeed.

        Raises:
          Interrupted: a stop was asked for; no process is left.
        """
        if self._done:
            logging.info("%d of %d are finished already", len(self._done), len(self._jobs))
        try:
            while self._waiting or self._running:
                self._stop.check()
                self._start_what_can()
                self._collect()
                if self._running:
                    time.sleep(POLL_SECONDS)
        except (Interrupted, KeyboardInterrupt):
            self._end_all()
            raise
        finally:
            for running in self._running:  # no process outlives an error of this one
                _kill(running.process)

    def _start_what_can(self) -> None:
        for job in list(self._waiting):
            ended = self._done | self.failed.keys()
            missing = next((name for name in job.needs if name in self.failed), None)
            if missing:
                self._waiting.remove(job)
                self.failed[job.name] = f"not started, because {missing} failed"
                self._log(job, self.failed[job.name])
            elif len(self._running) >= self._max_parallel:
                return
            elif self._done.issuperset(job.needs) and ended.issuperset(job.after):
                self._waiting.remove(job)
                self._start(job)

    def _start(self, job: Job) -> None:
        try:
            job.before()
            job.folder.mkdir(parents=True, exist_ok=True)
            with open(job.folder / LOG_NAME, "ab") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "ldx.studies.child", *job.command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # The terminal's Ctrl-C reaches this process alone, which passes it on once.
                    start_new_session=True,
                    pass_fds=(self._keep_open,),
                )
        except UserError as error:
            self.failed[job.name] = str(error)
            self._log(job, f"failed: {error}")
            return
        self._running.append(_Running(job, process, time.monotonic()))
        self._log(job, "started")

    def _collect(self) -> None:
        for running in list(self._running):
            code = running.process.poll()
            if code is None:
                continue
            self._running.remove(running)
            job, seconds = running.job, time.monotonic() - running.begin
            if code == 0:
                day = datetime.datetime.now(datetime.UTC).date().isoformat()
                write_json(job.folder / FINISHED_NAME, {"seconds": round(seconds, 1), "day": day})
                self._done.add(job.name)
                self._seconds.setdefault(job.kind, []).append(seconds)
                self._log(job, f"finished in {_duration(seconds)}")
            elif self._stop.signum is None:
                path = job.folder / LOG_NAME
                self.failed[job.name] = f"exit code {code}; {path} ends with\n{last_lines(path)}"
                self._log(job, f"failed: {self.failed[job.name]}")

    def _end_all(self) -> None:
        """Ask every process once to stop, and wait; a second request kills them."""
        if self._running:
            logging.info("waiting for %d processes to save what they have", len(self._running))
        for running in self._running:
            running.process.terminate()
        while any(running.process.poll() is None for running in self._running):
            time.sleep(POLL_SECONDS)
        self._collect()

    def _log(self, job: Job, event: str) -> None:
        logging.info(
            "[%d/%d] %s %s: %s (%d running, %d waiting, left %s)",
            len(self._done),
            len(self._jobs),
            job.kind,
            job.name,
            event,
            len(self._running),
            len(self._waiting),
            self._left(),
        )

    def _left(self) -> str:
        """The time that is left, by the jobs that finished; unknown where a kind has none yet."""
        total = 0.0
        now = time.monotonic()
        for job, begin in [(r.job, r.begin) for r in self._running] + [
            (job, now) for job in self._waiting
        ]:
            if job.kind not in self._seconds:
                return "unknown"
            mean = sum(self._seconds[job.kind]) / len(self._seconds[job.kind])
            total += max(mean - (now - begin), 0.0)
        return _duration(total / self._max_parallel)


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


def last_lines(path: Path) -> str:
    """The last lines of a log, without blank ones."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in [x for x in lines if x.strip()][-NUM_LAST_LINES:])


def _kill(process: subprocess.Popen) -> None:
    """Kill a job and the processes that it started, which are a process group of their own."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def auto_max_parallel(memory_per_run: float) -> int:
    """The number of processes at once: one on an accelerator, else one for 4 cores.

    Args:
      memory_per_run: GiB that a process takes; there are no more than memory allows.
    """
    if _has_accelerator():
        return 1
    by_cores = len(os.sched_getaffinity(0)) // 4 if sys.platform == "linux" else 1
    return max(1, min(by_cores, int(_available_memory() / memory_per_run)))


def _has_accelerator() -> bool:
    """Whether there is an accelerator; JAX is not asked, for it would take the memory of one."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return False
    devices = Path("/dev")
    return any(re.fullmatch(r"nvidia\d+|accel\d+|kfd", path.name) for path in devices.glob("*"))


def _available_memory() -> float:
    """GiB that can be used without swapping; 0 where the system does not say."""
    try:
        meminfo = Path("/proc/meminfo").read_text()
    except OSError:
        return 0.0
    match = re.search(r"MemAvailable:\s+(\d+) kB", meminfo)
    return min(int(match[1]) / 2**20, memory_limit() / 2**30) if match else 0.0
