"""Compare a run with its checkpoint: which settings and data changed, and whether they may change on resuming."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from atlf_jax.data import Source
from atlf_jax.own_code import files_in, with_files
from atlf_jax.program import LONGEST_MESSAGE

__all__ = ["Changes", "changes", "describe_data", "shared_subjects"]

FREE = {  # settings that do not affect what a step computes
    "name",
    "data.workers",
    "data.source.keep_maps",
    "train.log_every",
    "train.eval_every",
    "train.save_every",
    "train.picture_every",
    "train.parameter_shards",
    "train.shard_rules",
}
FREE_ENDINGS = (".root", ".keep")  # place and caching of the data; the data itself is compared by its digest


class Changes(NamedTuple):
    """Differences between a checkpoint and the present settings, as (old, new) by name."""

    free: dict[str, tuple[Any, Any]]  # may change at any time
    others: dict[str, tuple[Any, Any]]  # would make it another experiment

    def lines(self) -> list[str]:
        """Return one line of text for each difference."""
        return [f"{name}: {old} -> {new}" for name, (old, new) in (self.free | self.others).items()]

    def entry(self, step: int) -> list[dict[str, Any]]:
        """Return the entry for the checkpoints of the run: the step, and the settings that changed at it."""
        return [{"step": step, **{name: list(pair) for name, pair in self.others.items()}}] if self.others else []

    def refusal(self, workdir: Any) -> str:
        """Return the error message for a run that may not be resumed with these changes."""
        start = f"{workdir} holds a run of other settings ("
        end = "); give another --workdir, or go on all the same with --resume_changed"
        parts = [f"{name} {old} -> {new}" for name, (old, new) in self.others.items()]
        shown = list(parts)
        while len(shown) > 1 and len(start + "; ".join(shown) + end) > LONGEST_MESSAGE - 20:
            shown.pop()
        more = f"; and {len(parts) - len(shown)} more" if len(shown) < len(parts) else ""
        return start + "; ".join(shown) + more + end


def changes(before: Mapping[str, Any], now: Mapping[str, Any], *, step: int) -> Changes:
    """Compare two records of a run, each ``{"config": ..., "data": ...}``.

    Records of earlier versions are migrated to the present form first. A field outside the model that only one of them
    has belongs to another version of the package, and its default keeps the old behaviour: it is not compared.

    Args:
        before: of the checkpoint.
        now: of the run that resumes from it.
        step: steps done. Settings of stages that have not begun may change, and so may the length of the current stage
            if its learning rate is constant: the steps so far would have been the same.
    """
    # a file of the user's own code may move
    before, now = (
        with_files(dict(run), {file: Path(file).name for file in files_in(dict(run))}) for run in (before, now)
    )
    stages = _stages(before, now), _stages(now, before)
    used = [name for name in stages[0] if any(each[name].get("steps") for each in stages)]
    old, new = (_settings(run, {n: each[n] for n in used}) for run, each in zip((before, now), stages, strict=True))
    free: dict[str, tuple[Any, Any]] = {}
    others: dict[str, tuple[Any, Any]] = {}
    for name in [*old, *(name for name in new if name not in old)]:
        one, other = old.get(name), new.get(name)
        known = name.startswith("model.") or (name in old and name in new)
        if known and one != other and name != "data.source.split":  # it is replaced
            group = free if _is_free(name, *stages, step) else others
            group[name] = (one, other)
    return Changes(free, others)


def describe_data(train: Source, valid: Source) -> dict[str, str]:
    """Return what identifies the records of both sources, without the names of subjects.

    Args:
        train: records to train on.
        valid: records to validate on.
    """
    return {"train": _describe(train), "valid": _describe(valid)}


def shared_subjects(train: Source, valid: Source) -> list[str]:
    """Return the subjects that two sources share.

    Args:
        train: records to train on.
        valid: records to validate on.
    """
    return sorted(_subjects(train) & _subjects(valid))


def _subjects(source: Source) -> frozenset[str]:
    """Return a source's subjects: by its attribute ``subjects``, or from all its records."""
    known = getattr(source, "subjects", None)
    return (
        frozenset(source[index].subject for index in range(len(source)))
        if known is None
        else frozenset(map(str, known))
    )


def _describe(source: Source) -> str:
    subjects = sorted(_subjects(source))
    contents = [str(len(source)), *subjects, getattr(source, "digest", "")]
    digest = hashlib.sha256("\n".join(contents).encode()).hexdigest()[:12]
    return f"{len(source)} records of {len(subjects)} subjects ({digest})"


def _settings(record: Mapping[str, Any], stages: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings that are compared, by their names on the command line."""
    config = record["config"]
    if "train" in config:
        shared = {name: value for name, value in config["train"].items() if name != "stages"}
        config = {**config, "train": {**shared, **stages}}
    data = {f"records to {name} on": description for name, description in record.get("data", {}).items()}
    return _flat(config) | data


def _stages(record: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the settings of each stage in order; a stage that only the other run has is added, with 0 steps."""
    own, others = (
        [{**stage} for stage in each["config"].get("train", {}).get("stages", [])] for each in (record, other)
    )
    for place, stage in enumerate(others):
        if stage["name"] not in [each["name"] for each in own]:
            own.insert(place, stage | {"steps": 0})
    return {stage.pop("name"): stage for stage in own}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dictionaries, with dots between the names; a list of them gives its length and its items."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, list) and all(isinstance(item, dict) for item in value):
            flat[prefix + name] = len(value)
            value = {str(index): item for index, item in enumerate(value)}
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _is_free(name: str, before: Mapping[str, Any], now: Mapping[str, Any], step: int) -> bool:
    if name in FREE or (name.startswith("data.") and name.endswith(FREE_ENDINGS)):
        return True
    part, _, setting = name.removeprefix("train.").partition(".")
    if not name.startswith("train.") or not setting or part not in before:
        return False
    starts, ends = _bounds(before)
    if step <= starts[part]:  # it has not begun
        return True
    constant = all(stages[part].get("schedule") == "constant" for stages in (before, now))
    return setting == "steps" and constant and ends[part] >= step and _bounds(now)[1][part] >= step


def _bounds(stages: Mapping[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
    """Return the steps at which stages begin and end; a stage of 0 steps begins and ends at the same step."""
    starts, ends, step = {}, {}, 0
    for name, stage in stages.items():
        starts[name] = step
        step += stage.get("steps", 0)
        ends[name] = step
    return starts, ends
