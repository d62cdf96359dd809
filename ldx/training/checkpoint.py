"""What a run keeps on disk to go on later: Orbax checkpoints, and the progress that commits them.

WORKDIR/checkpoints/STEP holds `params` and `opt_state`; WORKDIR/progress.json names the step to go
on from and the best one. A checkpoint counts once progress.json names it, and nothing it names is
deleted before a newer one is in place, so a kill at any moment leaves a run that goes on.
"""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging

from ldx.common.errors import UserError
from ldx.common.files import read_json, write_json
from ldx.common.quiet import quiet_orbax
from ldx.common.types import Params
from ldx.step.state import TrainState
from ldx.training.variants import (
    BEST_STEP,
    CHECKPOINTS,
    RUNS,
    alpha_name,
    alpha_of,
    interpolate,
)

PROGRESS_NAME = "progress.json"
CHECKPOINTS_NAME = "checkpoints"
MEAN_NAME = "mean"  # beside the checkpoints, where a mean of models is kept
UNFINISHED_SUFFIX = ".orbax-checkpoint-tmp"
PREP_NAME = "prep"  # what the stages of data_prep pass on
NUM_LAST = 2


@dataclasses.dataclass
class Progress:
    """The progress of a run, as progress.json holds it."""

    step: int = 0
    evaluated_step: int = -1
    best_step: int = 0
    best_ndcg: float = -1.0  # of the best step
    highest_ndcg: float = -1.0  # of any step; another one where the best has the lowest loss
    lowest_losses: dict[str, float] = dataclasses.field(default_factory=dict)
    num_bad_evaluations: int = 0
    # The last evaluated steps, whose checkpoints are kept, however often a run is stopped between.
    last_evaluated: list[int] = dataclasses.field(default_factory=list)
    stop_reason: str = ""
    metrics_bytes: int = 0
    # Chosen after the last step: what is kept of it (`ldx.training.variants`). None: not yet.
    variant: str | None = None

    @property
    def ended(self) -> bool:
        """Whether the last step is done and evaluated."""
        return bool(self.stop_reason)

    @property
    def finished(self) -> bool:
        """Whether training has ended, and what is kept is chosen."""
        return self.ended and self.variant is not None

    @property
    def kept(self) -> str:
        """The variant of the best step that is kept; the step as it is until one is chosen."""
        return self.variant or BEST_STEP


def read_progress(workdir: Path) -> Progress | None:
    """The progress of a run, or None where the folder has none yet.

    Raises:
      UserError: this version of ldx did not write the file.
    """
    path = workdir / PROGRESS_NAME
    if not path.exists():
        return None
    try:
        stored = read_json(path)
        # The oldest runs kept the best step as it was, later ones an alpha; all of them compared
        # with the best step's nDCG@10.
        alpha = stored.pop("chosen_alpha", 1.0)
        variant = None if alpha is None else alpha_name(alpha)
        older = {"variant": variant, "highest_ndcg": stored.get("best_ndcg", -1.0)}
        return Progress(**{**older, **stored})
    except (TypeError, AttributeError) as error:
        raise UserError(f"{path}: not written by this version of ldx ({error})") from None


class Checkpoints:
    """The checkpoints of one run.

    Args:
      workdir: the run's folder; all processes of a run see the same one.
      read_only: whether only to read, in this process alone; this does not disturb a run in
        progress.
    """

    @quiet_orbax()
    def __init__(self, workdir: Path, *, read_only: bool = False):
        here = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(
            primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"alone{here}"
        )
        together = ocp.options.MultiprocessingOptions()
        self._workdir = workdir
        self._processes = alone if read_only else together
        if not read_only and here == 0:
            _remove_unfinished(workdir / CHECKPOINTS_NAME)
        self._manager = ocp.CheckpointManager(
            (workdir / CHECKPOINTS_NAME).absolute(),
            options=ocp.CheckpointManagerOptions(
                enable_async_checkpointing=False,
                create=not read_only,
                read_only=read_only,
                multiprocessing_options=self._processes,
            ),
            item_names=("params", "opt_state"),
        )

    @quiet_orbax()
    def discard_uncommitted(self, progress: Progress | None) -> None:
        """Delete what a kill left behind: checkpoints later than the progress.

        Raises:
          UserError: there are later checkpoints than a kill can leave, but no progress.
        """
        steps = self._manager.all_steps()
        if progress is None and any(steps):
            raise UserError(
                f"{self._workdir}/checkpoints has steps {sorted(steps)}, but {PROGRESS_NAME} is "
                "missing beside it; restore that file, or give a new --workdir"
            )
        for step in steps:
            if progress is None or step > progress.step:
                self._manager.delete(step)

    @quiet_orbax()
    def save(self, state: TrainState, progress: Progress) -> None:
        """Save a state once, commit the progress, and delete checkpoints that are not needed.

        Raises:
          UserError: the disk is full.
        """
        if progress.step not in self._manager.all_steps():
            self._check_room(state)
            items = ocp.args.Composite(
                params=ocp.args.StandardSave(state.params),
                opt_state=ocp.args.StandardSave(state.opt_state),
            )
            self._manager.save(progress.step, args=items)
        if jax.process_index() == 0:
            write_json(self._workdir / PROGRESS_NAME, dataclasses.asdict(progress))
        steps = sorted(self._manager.all_steps())
        kept = {progress.best_step, *steps[-NUM_LAST:], *progress.last_evaluated}
        for step in set(steps) - kept:
            self._manager.delete(step)

    def _check_room(self, state: TrainState) -> None:
        """Refuse to begin a checkpoint that the disk has no room for.

        Raises:
          UserError: there is no room; the message names the sizes.
        """
        arrays = jax.tree.leaves((state.params, state.opt_state))
        needed = sum(x.nbytes for x in arrays) / 2**20
        free = shutil.disk_usage(self._workdir).free / 2**20
        if free < needed:
            raise UserError(
                f"the disk is full: a checkpoint takes {needed:.0f} MiB, {self._workdir} has "
                f"{free:.0f} MiB free; make room, then run the same command again"
            )

    @quiet_orbax()
    def restore(self, state: TrainState, progress: Progress) -> TrainState:
        """The state of `progress.step`, with the shapes and shardings of `state`.

        Raises:
          UserError: there is no such checkpoint, or it is of another model.
        """
        params = _restore(self._manager, progress.step, "params", state.params, self._workdir)
        opt_state = _restore(
            self._manager, progress.step, "opt_state", state.opt_state, self._workdir
        )
        step = jax.device_put(jax.numpy.full_like(state.step, progress.step), state.step.sharding)
        return TrainState(step, params, opt_state)

    @quiet_orbax()
    def restore_step(self, params: Params, step: int) -> Params:
        """The parameters of a step, with the shapes and shardings of `params`."""
        return _restore(self._manager, step, "params", params, self._workdir)

    @quiet_orbax()
    def save_mean(self, params: Params) -> None:
        """Save parameters that are no step's, in place of those that were saved before."""
        with self._checkpointer() as checkpointer:
            checkpointer.save((self._workdir / MEAN_NAME).absolute(), params, force=True)

    @quiet_orbax()
    def restore_mean(self, params: Params) -> Params:
        """What `save_mean` saved, with the shapes and shardings of `params`."""
        target = _shapes_of(params)
        try:
            with self._checkpointer() as checkpointer:
                return checkpointer.restore((self._workdir / MEAN_NAME).absolute(), target)
        except (ValueError, KeyError, FileNotFoundError) as error:
            raise UserError(f"{self._workdir}/{MEAN_NAME}: missing or damaged\n{error}") from None

    def _checkpointer(self) -> ocp.Checkpointer:
        """Orbax's reader and writer of parameters that are no step's."""
        handler = ocp.StandardCheckpointHandler(multiprocessing_options=self._processes)
        return ocp.Checkpointer(handler, multiprocessing_options=self._processes)


def _remove_unfinished(folder: Path) -> None:
    """Remove the checkpoints that a kill left half-written; Orbax would do so in a thread."""
    for path in folder.glob(f"*{UNFINISHED_SUFFIX}*"):
        shutil.rmtree(path)


def is_workdir(folder: Path) -> bool:
    """Whether a folder is the workdir of a run, of which only the lists may be made yet."""
    return any((folder / name).exists() for name in (CHECKPOINTS_NAME, PROGRESS_NAME, PREP_NAME))


def no_checkpoint(workdir: Path) -> UserError:
    """The mistake of asking a run for its model before its first evaluation."""
    return UserError(
        f"{workdir}: a workdir of ldx.train without a checkpoint yet; run "
        f"`python -m ldx.train --config=FILE.py --workdir={workdir}`, at least up to its first "
        "evaluation"
    )


def best_params(workdir: str | Path, params: Params) -> tuple[Params, Progress]:
    """The best parameters of a run, which may be under way, and the progress that names them.

    Args:
      workdir: the run's folder.
      params: the base model's parameters.

    Raises:
      UserError: the folder holds no run, or one of another model.
    """
    workdir = Path(workdir)
    progress = read_progress(workdir)
    while True:
        if progress is None or progress.evaluated_step < 0:
            raise no_checkpoint(workdir)
        try:
            checkpoints = Checkpoints(workdir, read_only=True)
            if progress.kept in (CHECKPOINTS, RUNS):
                return checkpoints.restore_mean(params), progress
            trained = checkpoints.restore_step(params, progress.best_step)
            return interpolate(params, trained, alpha_of(progress.kept)), progress
        except UserError:
            # A run that goes on deletes a checkpoint when a better one is in place.
            seen, progress = progress, read_progress(workdir)
            if progress is None or progress.best_step == seen.best_step:
                raise


def _restore(manager: ocp.CheckpointManager, step: int, item: str, like: Any, workdir: Path) -> Any:
    if step not in manager.all_steps():
        raise UserError(
            f"{workdir / PROGRESS_NAME} names step {step}, but checkpoints/{step} is missing; "
            "restore that folder, or train again in a new --workdir"
        )
    target = _shapes_of(like)
    logging.debug("restoring %s of step %d", item, step)
    try:
        args = ocp.args.Composite(**{item: ocp.args.StandardRestore(target)})
        restored = manager.restore(step, args=args)[item]
    except (ValueError, KeyError, FileNotFoundError) as error:
        raise UserError(
            f"{workdir}/checkpoints/{step}: not a checkpoint of this model and optimiser, or "
            f"damaged; use the config of {workdir}/config.json\n{error}"
        ) from None
    shapes = jax.tree.map(lambda x: x.shape, restored)
    assert shapes == jax.tree.map(lambda x: x.shape, like), "Orbax restored other shapes"
    return restored


def _shapes_of(params: Any) -> Any:
    """The shapes, types and shardings of arrays, in which Orbax restores."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), params
    )
