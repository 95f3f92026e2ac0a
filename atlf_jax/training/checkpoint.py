"""Checkpoints of a run, by Orbax: the latest two states to go on from, and the best one.

``workdir/checkpoints/latest/STEP`` and ``workdir/checkpoints/best/STEP`` hold ``state`` (to resume), ``variables``
(averaged parameters, to evaluate), ``meta`` (the whole configuration, step and stage; the score of the best) and
``checksums.json`` of these files. Whenever a best is saved the latest is too, so a resumed run never falls behind its
best. A damaged checkpoint is never used: a run goes on from the newest whole one, and says so.
"""

import hashlib
import json
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import jax
import numpy as np
from beartype import beartype
from etils import epath

from atlf_jax.objectives import Variables
from atlf_jax.training.hosts import barrier, is_first
from atlf_jax.training.sharding import put
from atlf_jax.training.step import TrainState

__all__ = [
    "Checkpoints",
    "Snapshot",
    "Saved",
    "Which",
    "checkpoints_of",
    "load",
    "newest",
    "put_state",
    "read",
    "read_meta",
]

Which = Literal["best", "latest"]
CHECKPOINT_FOLDER = "checkpoints"
SET_ASIDE_FOLDER = "set_aside"  # for damaged checkpoints and the best of other settings: nothing is deleted
CHECKSUMS = "checksums.json"
CHECKPOINTS_KEPT = {"latest": 2, "best": 1}  # number of each kind
ITEMS = ("state", "variables")


class Snapshot(NamedTuple):
    """The state of a run at one step, as it is saved."""

    state: TrainState
    step: int  # steps done
    stage: str
    validation_due: bool = False  # a validation belongs to this step, and was not done or not finished


class Saved(NamedTuple):
    """A complete checkpoint that was read."""

    folder: Path
    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]  # of the state, or the variables, by their path


class Checkpoints:
    """The checkpoints of one run, open for writing; a context manager.

    A save is complete, or failed with an error, when its function returns. Of several processes each calls it, and
    writes the parts that it has.

    Args:
        workdir: the run's folder.
        config: the whole configuration as a JSON dictionary, kept in every checkpoint.
        facts: further entries of ``meta``.
        replaced: checkpoints to set aside before the first save: damaged ones, or the best of other settings.
    """

    def __init__(
        self, workdir: Path, config: dict[str, Any], facts: dict[str, Any] | None = None, replaced: Sequence[Path] = ()
    ) -> None:
        self._root = _root(workdir)
        self._meta = {"config": config, **(facts or {})}
        if is_first():
            for folder in replaced:
                _set_aside(folder)
        barrier("damaged checkpoints are set aside")
        self._latest, self._best = (_manager(self._root / which, keep=keep) for which, keep in CHECKPOINTS_KEPT.items())
        self._saving = threading.RLock()
        self._snapshot: Snapshot | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._latest.close()
        self._best.close()

    @property
    def last_good(self) -> str:
        """The newest checkpoint, for a message."""
        step = self._latest.latest_step()
        return "there is none" if step is None else str(self._root / "latest" / str(step))

    def save_latest(self, snapshot: Snapshot) -> None:
        """Save everything; the latest checkpoint but one is removed when this one is complete."""
        with self._saving:
            if snapshot.step > (self._latest.latest_step() or 0):
                due = {"validation_due": True} if snapshot.validation_due else {}
                self._save(self._latest, "latest", snapshot, due)

    def save_best(self, snapshot: Snapshot, *, psnr: float) -> None:
        """Save everything as the best so far; the best before is removed when this is complete."""
        with self._saving:
            for newer in [step for step in self._best.all_steps() if step >= snapshot.step]:
                self._best.delete(newer)  # left by a run that was killed before it saved its state, or began again
            self._save(self._best, "best", snapshot, {"psnr": psnr})

    def offer(self, snapshot: Snapshot) -> None:
        """Set the state that ``rescue`` saves if the process ends before the loop's next save."""
        self._snapshot = snapshot

    def rescue(self) -> str:
        """Save the offered state if it is new, from any thread, and say for a message what is saved."""
        with self._saving:  # waits for a save under way
            if self._snapshot is not None:
                self.save_latest(self._snapshot)
            step = self._latest.latest_step()
        if step is None:
            return "interrupted before anything was done; run the same command to begin again"
        return f"interrupted at step {step}, which is saved; run the same command to go on"

    def _save(self, manager: Any, which: Which, snapshot: Snapshot, meta: dict[str, Any]) -> None:
        import orbax.checkpoint as ocp

        folder = self._root / which / str(snapshot.step)
        items = {"state": snapshot.state, "variables": evaluated(snapshot.state)}
        meta = {**self._meta, "step": snapshot.step, "stage": snapshot.stage, **meta}
        with jax.transfer_guard("allow"):  # the only transfers not written out: Orbax copies to the host
            if broken := _not_finite({"average": items["variables"], "params": snapshot.state.params}):
                raise FloatingPointError(
                    f"{broken} is not finite after step {snapshot.step} of stage {snapshot.stage}, which is not saved; "
                    f"last good checkpoint: {self.last_good}. Lower train.{snapshot.stage}.learning_rate"
                )
            saves = {name: ocp.args.StandardSave(item) for name, item in items.items()}
            try:
                manager.save(snapshot.step, args=ocp.args.Composite(**saves, meta=ocp.args.JsonSave(meta)))
                if is_first():
                    _write_checksums(folder)
                barrier("the checkpoint is complete")
            except jax.errors.JaxRuntimeError:  # another process is lost
                raise
            except Exception as error:  # of several libraries; what they share is that the disk did not take it
                raise OSError(
                    f"step {snapshot.step} cannot be saved in {folder.parent} ({_reason(error)}); make room there or "
                    f"mend the folder, and run the same command to go on; last good checkpoint: {self.last_good}"
                ) from error


def evaluated(state: TrainState) -> Variables:
    """Return the variables that are evaluated and kept: averaged parameters and the model's other collections."""
    return {"params": state.average, **state.model_state}


def checkpoints_of(path: str | Path, which: Which) -> list[Path]:
    """Return the checkpoints of one kind, newest first; a save that was cut short has another name.

    Args:
        path: the run's folder, or its checkpoints folder.
        which: the kind.
    """
    folder = _root(path) / which
    try:
        steps = [int(each.name) for each in folder.iterdir() if each.name.isdecimal()] if folder.is_dir() else []
    except OSError as error:
        raise ValueError(f"{folder} cannot be read ({error.strerror}); mend its permissions") from error
    return [folder / str(step) for step in sorted(steps, reverse=True)]


def newest(workdir: Path) -> tuple[Saved | None, dict[Path, str]]:
    """Return the newest whole state of a run, and the checkpoints that are damaged.

    The latest two are looked at first, then the best. The best is looked at in any case, for it may be damaged too.

    Args:
        workdir: the run's folder.

    Returns:
        The state, None where the folder holds no checkpoint; and of each damaged checkpoint, what is wrong with it.

    Raises:
        ValueError: there are checkpoints, and none is whole.
    """
    found: Saved | None = None
    damaged: dict[Path, str] = {}
    folders = [*checkpoints_of(workdir, "latest"), *checkpoints_of(workdir, "best")]
    for folder in folders:
        try:
            if found is None:
                found = _read(folder, "state")
            elif folder.parent.name == "best":
                _read(folder, "variables")
        except ValueError as error:
            damaged[folder] = str(error)
    if folders and found is None:
        raise ValueError(
            f"no checkpoint of {_root(workdir)} can be gone on from: {next(iter(damaged.values()))}; restore the "
            "folder from a copy, or give another --workdir"
        )
    return found, damaged


def put_state(saved: Saved, *, like: TrainState) -> TrainState:
    """Return a saved state as a state on devices, exactly as it was saved.

    Args:
        saved: of ``newest``.
        like: a state of the same structure; its shardings are taken.

    Raises:
        ValueError: the saved state has other arrays than the model of today.
    """
    wanted = {_path(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(like)}
    old = {name: (array.shape, str(array.dtype)) for name, array in saved.arrays.items()}
    new = {name: (leaf.shape, str(leaf.dtype)) for name, leaf in wanted.items()}
    differing = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    if differing:
        name = differing[0]
        raise ValueError(
            f"{saved.folder} does not fit the model: {len(differing)} arrays differ, first {name}: "
            f"saved {old.get(name)}, wanted {new.get(name)}; use another workdir"
        )
    return jax.tree_util.tree_map_with_path(lambda path, leaf: put(saved.arrays[_path(path)], leaf.sharding), like)


@beartype
def read_meta(path: str | Path, which: Which = "latest") -> dict[str, Any] | None:
    """Return a checkpoint's meta data (config, step, stage; psnr of the best), or None where there is no checkpoint.

    Raises:
        ValueError: the meta data is damaged.
    """
    for folder in checkpoints_of(path, which):
        return _read_meta(folder)
    return None


@beartype
def read(path: str | Path, which: Which = "best") -> tuple[dict[str, Any], Variables]:
    """Read a trained network from its checkpoint alone.

    Where the newest of the latest two is damaged the one before is taken, with a warning.

    Args:
        path: the run's folder, or its checkpoints folder.
        which: "best" by validation PSNR, or "latest".

    Returns:
        The meta data (see ``read_meta``), and the variables (averaged parameters under "params") as numpy arrays.

    Raises:
        ValueError: there is no such checkpoint, or it is damaged.
    """
    folders = checkpoints_of(path, which)
    other: Which = "latest" if which == "best" else "best"
    if not folders:
        hint = f"; a '{other}' one exists" if checkpoints_of(path, other) else "; train first, or give the run's folder"
        raise ValueError(f"no '{which}' checkpoint under {_root(path)}{hint}")
    problems: list[str] = []
    for folder in folders:
        try:
            saved = _read(folder, "variables")
        except ValueError as error:
            problems.append(str(error))
            continue
        if problems:
            warnings.warn(f"{problems[0]}; {folder} is read in its place", stacklevel=2)
        return saved.meta, _nested(saved.arrays)
    hint = f"; ask for the '{other}' one" if checkpoints_of(path, other) else ""
    raise ValueError(f"{problems[0]}{hint}, or restore it from a copy")


@beartype
def load(path: str | Path, which: Which = "best") -> tuple[dict[str, Any], Variables]:
    """Load a trained network from its checkpoint alone, on any number of devices.

    Args:
        path: the run's folder, or its checkpoints folder.
        which: "best" by validation PSNR, or "latest".

    Returns:
        The whole configuration as a JSON dictionary, and the variables (averaged parameters under "params").

    Raises:
        ValueError: there is no such checkpoint, or it is damaged.
    """
    meta, variables = read(path, which)
    return meta["config"], jax.device_put(variables)


def _root(path: str | Path) -> Path:
    """The absolute checkpoints folder (Orbax fails late on a relative path)."""
    path = Path(path).expanduser().resolve()
    return path if path.name == CHECKPOINT_FOLDER else path / CHECKPOINT_FOLDER


def _manager(folder: Path, *, keep: int) -> Any:
    """Open one kind of checkpoint for writing; saves that were cut short are cleared."""
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, cleanup_tmp_directories=True, enable_async_checkpointing=False
    )
    handlers = {"meta": ocp.JsonCheckpointHandler(), **{name: ocp.StandardCheckpointHandler() for name in ITEMS}}
    try:
        return ocp.CheckpointManager(folder, options=options, item_handlers=handlers)
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"{folder} cannot be written ({reason}); mend it, or give another --workdir") from error


def _set_aside(folder: Path) -> None:
    """Move a checkpoint to where no run looks for it."""
    aside = folder.parent.parent / SET_ASIDE_FOLDER
    aside.mkdir(exist_ok=True)
    name = f"{folder.parent.name}-{folder.name}"
    taken = {each.name for each in aside.iterdir()}
    folder.rename(aside / next(each for each in _numbered(name) if each not in taken))


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1


def _write_checksums(folder: Path) -> None:
    """Write the digests of a complete checkpoint's files beside them."""
    sums = {str(file.relative_to(folder)): _digest(file) for file in _files(folder)}
    partial = folder / f"{CHECKSUMS}.partial"
    partial.write_text(json.dumps(sums, indent=1))
    partial.replace(folder / CHECKSUMS)


def _files(folder: Path) -> list[Path]:
    return sorted(file for item in (*ITEMS, "meta") for file in (folder / item).rglob("*") if file.is_file())


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_files(folder: Path, items: Sequence[str]) -> None:
    """Compare files with their digests, before a library reads them; older checkpoints have none."""
    file = folder / CHECKSUMS
    if not file.exists():
        return
    try:
        sums = json.loads(file.read_bytes())
        named = {name: digest for name, digest in sums.items() if name.split("/")[0] in items}
        wrong = [name for name, digest in named.items() if _digest(folder / name) != digest]
    except FileNotFoundError as error:
        raise ValueError(f"{folder} is damaged ({Path(error.filename).relative_to(folder)} is missing)") from error
    except (AttributeError, OSError, ValueError) as error:
        raise ValueError(f"{folder} is damaged ({CHECKSUMS}: {_reason(error)})") from error
    if wrong:
        raise ValueError(f"{folder} is damaged ({wrong[0]} is not as it was saved)")


def _read_meta(folder: Path) -> dict[str, Any]:
    """Return and check the meta data of one checkpoint."""
    _check_files(folder, ["meta"])
    try:
        meta = json.loads((folder / "meta" / "metadata").read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"{folder} is damaged (meta/metadata is missing)") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} is damaged (meta/metadata: {_reason(error)})") from error
    wanted = {"config": dict, "step": int, "stage": str}
    whole = isinstance(meta, dict) and all(isinstance(meta.get(name), kind) for name, kind in wanted.items())
    if not whole or meta["step"] != int(folder.name) or not isinstance(meta.get("psnr", 0.0), int | float):
        raise ValueError(f"{folder} is damaged (meta/metadata is not what a run writes)")
    return meta


def _read(folder: Path, item: str) -> Saved:
    """Read one checkpoint's meta data and one of its items, to the host.

    Raises:
        ValueError: it is damaged, or a parameter is not finite.
    """
    import orbax.checkpoint as ocp

    meta = _read_meta(folder)
    if not (folder / item).is_dir():
        older = item == "state" and folder.parent.name == "best" and not (folder / CHECKSUMS).exists()
        missing = "an older version kept no state to go on from" if older else f"{item}/ is missing"
        raise ValueError(f"{folder} is {'of no use' if older else 'damaged'} ({missing})")
    _check_files(folder, [item])
    handler = ocp.PyTreeCheckpointHandler()
    try:
        place = epath.Path(folder / item)
        tree = handler.metadata(place).tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        tree = handler.restore(place, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
        arrays = {_path(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    except MemoryError:
        raise
    except Exception as error:  # of several libraries; what they share is that the files are not what was saved
        raise ValueError(f"{folder} is damaged ({item}: {_reason(error)})") from error
    finally:
        handler.close()
    parameters = {name: array for name, array in arrays.items() if name.split("/")[0] not in ("step", "optimiser")}
    if broken := _not_finite(parameters):
        raise ValueError(f"{folder} holds parameters that are not finite, first {broken}")
    return Saved(folder, meta, arrays)


def _path(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _nested(arrays: dict[str, np.ndarray]) -> Variables:
    """Build nested dictionaries from arrays by their paths."""
    tree: Variables = {"params": {}}
    for path, array in arrays.items():
        *parents, name = path.split("/")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = array
    return tree


def _not_finite(tree: Any) -> str:
    """Return the path of the first array that is not finite, or nothing."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        inexact = jax.numpy.issubdtype(leaf.dtype, jax.numpy.inexact)
        if inexact and not all(np.isfinite(np.asarray(part)).all() for part in _parts(leaf)):
            return _path(path)
    return ""


def _parts(leaf: Any) -> list[Any]:
    """Return an array's parts on this process: one copy where every device has one."""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return [leaf]
    shards = leaf.addressable_shards
    return [shard.data for shard in (shards[:1] if leaf.is_fully_replicated else shards)]


def _reason(error: BaseException) -> str:
    """Return an error's first line, cut to a readable length."""
    text = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), "") or type(error).__name__
    return text if len(text) <= 100 else f"{text[:97]}..."
