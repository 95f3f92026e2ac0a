"""Command lines of dataclasses, by tyro: what is wrong with one is told in one line, as all other mistakes are.

Masks have one spelling on all of them: ``--masks KIND ACCELERATION CENTRE_FRACTION [NAME=VALUE ...]``, repeated for
several. It belongs to the type: every field that is a ``MaskConfig``, or a tuple of them, is read so.
"""

import contextlib
import dataclasses
import io
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from atlf_jax.masks import MaskConfig
from atlf_jax.program import REFUSED

__all__ = ["apply_old_mask_flags", "parse", "refused"]

LONGEST = 250  # characters of a message
LEFT_OUT = ("For full helptext", "Argument helptext")  # parts of tyro's answer: the line names --help itself


def parse(kind: Any, argv: Sequence[str], *, program: str, **settings: Any) -> Any:
    """Return what a command line asks for; on a mistake say so in one line and exit with ``program.REFUSED``.

    Args:
        kind: a dataclass, or a type annotated for tyro.
        argv: arguments after the program's name.
        program: its name.
        settings: further arguments of ``tyro.cli``.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Arguments:
        ...     slices: int = 1
        >>> parse(Arguments, ["--slices=3"], program="atlf")
        Arguments(slices=3)
    """
    import tyro

    settings = {"prog": program, "use_underscores": True, "registry": _with_masks()} | settings
    answer = io.StringIO()
    try:
        with contextlib.redirect_stderr(answer), _unwrapped(not {"-h", "--help"} & set(argv)):
            return tyro.cli(kind, args=list(argv), **settings)
    except SystemExit:
        if not answer.getvalue():
            raise
    raise refused(_sentence(answer.getvalue()), program=program)


def refused(said: str, *, program: str) -> SystemExit:
    """Say in one line what is wrong with a command line, point to ``--help``, and return the exit to raise.

    Args:
        said: what is wrong; cut where the line would be too long.
        program: as for ``parse``.
    """
    name = program.partition(" --")[0]
    end = f"; see {name} --help"
    room = LONGEST - len(name) - len(end) - 2
    said = said if len(said) <= room else f"{said[: room - 3]}..."
    print(f"{name}: {said}{end}", file=sys.stderr, flush=True)
    return SystemExit(REFUSED)


def apply_old_mask_flags(
    argv: Sequence[str], masks: tuple[MaskConfig, ...], *, several: bool
) -> tuple[list[str], tuple[MaskConfig, ...]]:
    """Take ``--mask.acceleration 8``, ``--mask.kind radial`` and so on, the spelling of earlier versions.

    Args:
        argv: arguments.
        masks: settings that the flags change; more than one only where no flag is given.
        several: a flag may have several values, which make as many settings.

    Returns:
        The other arguments, and the settings.

    Raises:
        ValueError: a flag without a value, with another number of values than the others, or of a field that masks
            have not; or there are several settings, and which one is meant is not said.

    Example:
        >>> apply_old_mask_flags(["--mask.acceleration=8", "--seed=1"], (MaskConfig(),), several=False)[0]
        ['--seed=1']
    """
    rest: list[str] = []
    given: dict[str, list[str]] = {}
    queue = list(argv)
    while queue:
        text = queue.pop(0)
        if not text.startswith("--mask."):
            rest.append(text)
            continue
        name, equals, value = text.removeprefix("--mask.").partition("=")
        given[name] = [value] if equals else []
        while not equals and queue and not queue[0].startswith("--") and (several or not given[name]):
            given[name].append(queue.pop(0))
    if not given:
        return rest, masks
    if len(masks) > 1:
        name = next(iter(given))
        raise ValueError(f"--mask.{name} changes one mask, and there are {len(masks)}; give all by --masks")
    number = max(map(len, given.values()))
    if not number or any(len(values) not in (1, number) for values in given.values()):
        raise ValueError("the --mask. flags have different numbers of values; give each one, or all as many")
    settings = [{name: each[min(i, len(each) - 1)] for name, each in given.items()} for i in range(number)]
    return rest, tuple(dataclasses.replace(masks[0], **_mask_fields(fields)) for fields in settings)


def _with_masks() -> Any:
    """Return the rule by which tyro reads masks."""
    import tyro

    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def rule(info: Any) -> Any:
        if info.type is MaskConfig:
            return tyro.constructors.PrimitiveConstructorSpec(
                nargs=3,
                metavar="KIND ACCELERATION CENTRE_FRACTION",
                instance_from_str=lambda texts: next(iter(_masks(texts))),
                is_instance=lambda value: isinstance(value, MaskConfig),
                str_from_instance=lambda mask: _mask_texts((mask,)),
            )
        if info.type == tuple[MaskConfig, ...]:
            return tyro.constructors.PrimitiveConstructorSpec(
                nargs="*",
                metavar="KIND ACCELERATION CENTRE_FRACTION [NAME=VALUE] [...]",
                instance_from_str=_masks,
                is_instance=lambda value: isinstance(value, tuple),
                str_from_instance=_mask_texts,
            )
        return None

    return registry


def _masks(texts: Sequence[str]) -> tuple[MaskConfig, ...]:
    """Read ``KIND ACCELERATION CENTRE_FRACTION [NAME=VALUE ...]``, once or several times."""
    masks, queue = [], list(texts)
    while queue:
        if len(queue) < 3:
            raise ValueError(f"got {' '.join(queue)}, wanted KIND ACCELERATION CENTRE_FRACTION for each mask")
        fields: dict[str, str] = {}
        fields["kind"], fields["acceleration"], fields["center_fraction"] = queue[:3]
        queue = queue[3:]
        while queue and "=" in queue[0]:
            name, _, value = queue.pop(0).partition("=")
            fields[name] = value
        masks.append(MaskConfig(**_mask_fields(fields)))
    return tuple(masks)


def _mask_fields(texts: dict[str, str]) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(MaskConfig)]
    values: dict[str, Any] = {}
    for name, text in texts.items():
        if name not in names:
            raise ValueError(f"got {name}={text} for a mask, wanted one of {', '.join(names)}")
        try:
            number = int if name == "center_lines" else float
            values[name] = text if name == "kind" else None if text == "None" else number(text)
        except ValueError:
            raise ValueError(f"got {name} {text!r} for a mask, wanted a number") from None
    return values


def _mask_texts(masks: Sequence[MaskConfig]) -> list[str]:
    """Undo ``_masks``."""
    texts = []
    for mask in masks:
        texts += [mask.kind, f"{mask.acceleration:g}", f"{mask.center_fraction:g}"]
        for field in dataclasses.fields(mask)[3:]:
            if getattr(mask, field.name) != field.default:
                texts.append(f"{field.name}={getattr(mask, field.name)}")
    return texts


@contextlib.contextmanager
def _unwrapped(wanted: bool) -> Iterator[None]:
    """Let tyro write lines of any length, so that no word of its answer is cut in two."""
    before = os.environ.get("COLUMNS")
    if wanted:
        os.environ["COLUMNS"] = "10000"
    try:
        yield
    finally:
        if wanted:
            os.environ.pop("COLUMNS")
            if before is not None:
                os.environ["COLUMNS"] = before


def _sentence(box: str) -> str:
    """Return what stands in tyro's box, without its frame, which is of lines or, on some terminals, of ASCII."""
    parts: list[list[str]] = [[]]
    for line in box.splitlines()[1:]:
        text = line.strip("│| ")
        if not text.strip("─-╰╯+ "):
            parts.append([])
        else:
            parts[-1].append(" ".join(text.split()))
    kept = [" ".join(part) for part in parts if part and not part[0].startswith(LEFT_OUT)]
    return "; ".join(kept).rstrip(".")
