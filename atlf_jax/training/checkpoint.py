"""Checkpoints of a run, by Orbax: the latest state to go on from, and the best parameters.

``workdir/checkpoints/latest/STEP`` holds ``state`` (to resume), ``variables`` (averaged parameters, to evaluate) and
``meta`` (the whole configuration, step and stage); ``workdir/checkpoints/best/STEP`` holds the last two, and the score
in its ``meta``. Whenever a best is saved the latest is too, so a resumed run never falls behind its best.
"""

from pathlib import Path
from typing import Any, Literal, Self

import jax
import numpy as np
from beartype import beartype

from atlf_jax.training.objective import Variables
from atlf_jax.training.step import TrainState

__all__ = ["Checkpoints", "Which", "load", "read_meta"]

Which = Literal["best", "latest"]
FOLDER = "checkpoints"


class Checkpoints:
    """The checkpoints of one run, open for writing; a context manager that waits for saves under way.

    Args:
        workdir: the run's folder.
        config: the whole configuration as a JSON dictionary, kept in every checkpoint.
    """

    def __init__(self, workdir: Path, config: dict[str, Any]) -> None:
        self._root = _root(workdir)
        self._config = config
        self._latest, self._best = (_manager(self._root / which, owned=True) for which in ("latest", "best"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._latest.close()
        self._best.close()

    @property
    def last_good(self) -> str:
        """The newest checkpoint, in words for a message."""
        step = self._latest.latest_step()
        return "there is none" if step is None else str(self._root / "latest" / str(step))

    def save_latest(self, state: TrainState, *, step: int, stage: str) -> None:
        """Save everything; the latest checkpoint before is removed when this one is complete."""
        self._save(self._latest, step, {"variables": evaluated(state), "state": state}, {"stage": stage})

    def save_best(self, state: TrainState, *, step: int, stage: str, psnr: float) -> None:
        """Save the averaged parameters as the best so far; the best before is removed when this is complete."""
        for newer in [there for there in self._best.all_steps() if there >= step]:
            self._best.delete(newer)  # left by a run that was killed before it saved its state, or began again
        self._save(self._best, step, {"variables": evaluated(state)}, {"stage": stage, "psnr": psnr})

    def _save(self, manager: Any, step: int, items: dict[str, Any], meta: dict[str, Any]) -> None:
        import orbax.checkpoint as ocp

        saves = {name: ocp.args.StandardSave(item) for name, item in items.items()}
        meta = {"config": self._config, "step": step, **meta}
        with jax.transfer_guard("allow"):  # the only transfers not written out: Orbax copies to the host
            manager.save(step, args=ocp.args.Composite(**saves, meta=ocp.args.JsonSave(meta)))


def evaluated(state: TrainState) -> Variables:
    """Return the variables that are evaluated and kept: averaged parameters and the model's other collections."""
    return {"params": state.average, **state.model_state}


@beartype
def read_meta(path: str | Path, which: Which = "latest") -> dict[str, Any] | None:
    """Return a checkpoint's meta data (config, step, stage; psnr of the best), or None where there is no checkpoint."""
    import orbax.checkpoint as ocp

    folder = _root(path) / which
    if not folder.is_dir():
        return None
    with _manager(folder) as manager:
        step = manager.latest_step()
        if step is None:
            return None
        return manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta


def restore_latest(workdir: Path, *, like: TrainState) -> TrainState:
    """Return the latest state, exactly as it was saved.

    Args:
        workdir: the run's folder.
        like: a state of the same structure; its shardings are taken.

    Raises:
        ValueError: the saved state has other parameters than the model of today.
    """
    import orbax.checkpoint as ocp

    folder = _root(workdir) / "latest"
    with _manager(folder) as manager:
        step = manager.latest_step()
        _check_same(folder / str(step), manager.item_metadata(step)["state"].tree, like)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        with jax.transfer_guard("allow"):
            return manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))).state


@beartype
def load(path: str | Path, which: Which = "best") -> tuple[dict[str, Any], Variables]:
    """Load a trained network from its checkpoint alone, on any number of devices.

    Args:
        path: the run's folder, or its checkpoints folder.
        which: "best" by validation PSNR, or "latest".

    Returns:
        The whole configuration as a JSON dictionary, and the variables (averaged parameters under "params").

    Raises:
        ValueError: there is no such checkpoint.
    """
    import orbax.checkpoint as ocp

    meta = read_meta(path, which)
    if meta is None:
        other: Which = "latest" if which == "best" else "best"
        hint = f"; there is a '{other}' one" if read_meta(path, other) else "; train first, or give the run's folder"
        raise ValueError(f"no '{which}' checkpoint under {_root(path)}{hint}")
    with _manager(_root(path) / which, as_numpy=True) as manager:
        tree = manager.item_metadata(meta["step"])["variables"].tree
        numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        item = ocp.args.PyTreeRestore(restore_args=numpy)
        variables = manager.restore(meta["step"], args=ocp.args.Composite(variables=item)).variables
    return meta["config"], jax.device_put(variables)


def _root(path: str | Path) -> Path:
    """The absolute checkpoints folder (Orbax fails late on a relative path)."""
    path = Path(path).expanduser().resolve()
    return path if path.name == FOLDER else path / FOLDER


def _manager(folder: Path, *, owned: bool = False, as_numpy: bool = False) -> Any:
    """Open one kind of checkpoint; the run that owns the folder also clears saves that were cut short."""
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(max_to_keep=1, cleanup_tmp_directories=owned)
    handlers = {
        "meta": ocp.JsonCheckpointHandler(),
        "state": ocp.StandardCheckpointHandler(),
        "variables": ocp.PyTreeCheckpointHandler() if as_numpy else ocp.StandardCheckpointHandler(),
    }
    return ocp.CheckpointManager(folder, options=options, item_handlers=handlers)


def _check_same(folder: Path, saved: Any, wanted: TrainState) -> None:
    """Compare names, shapes and dtypes; Orbax would cast silently."""

    def flat(tree: Any) -> dict[str, tuple]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path, simple=True, separator="/"): (x.shape, str(x.dtype)) for path, x in leaves}

    there, here = flat(saved), flat(wanted)
    differing = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
    if differing:
        name = differing[0]
        raise ValueError(
            f"{folder} does not fit the model: {len(differing)} arrays differ, first {name}: "
            f"saved {there.get(name)}, wanted {here.get(name)}; use another workdir"
        )
