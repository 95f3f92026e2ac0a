"""Command lines from dataclasses, by tyro, with error messages of one line.

Masks are written in the same way everywhere: ``--masks KIND ACCELERATION CENTRE_FRACTION [NAME=VALUE ...]``, repeated
for several masks. The rule belongs to the type: it applies to every field that is a ``MaskConfig`` or a tuple of them.
"""

import contextlib
import dataclasses
import io
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from atlf_jax.masks import MaskConfig
from atlf_jax.program import LONGEST_MESSAGE, REFUSED

__all__ = ["apply_old_mask_flags", "parse", "refused"]

# parts of tyro's message that are dropped: ours names --help itself
DROPPED_PARTS = (
    "For full helptext",
    "Argument helptext",
)


def parse(kind: Any, argv: Sequence[str], *, program: str, **settings: Any) -> Any:
    """Parse a command line; a mistake is reported in one line, and the process exits with ``program.REFUSED``.

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
            cli: Any = tyro.cli  # its overloads name every setting
            return cli(kind, args=list(argv), **settings)
    except SystemExit:
        if not answer.getvalue():
            raise
    raise refused(_sentence(answer.getvalue()), program=program)


def refused(message: str, *, program: str) -> SystemExit:
    """Print in one line what is wrong with a command line, with a hint to ``--help``; return the exit to raise.

    Args:
        message: what is wrong; it is shortened if the line would be too long.
        program: as for ``parse``.
    """
    name = program.partition(" --")[0]
    end = f"; see {name} --help"
    room = LONGEST_MESSAGE - len(name) - len(end) - 2
    message = message if len(message) <= room else f"{message[: room - 3]}..."
    print(f"{name}: {message}{end}", file=sys.stderr, flush=True)
    return SystemExit(REFUSED)


def apply_old_mask_flags(
    argv: Sequence[str], masks: tuple[MaskConfig, ...], *, several: bool
) -> tuple[list[str], tuple[MaskConfig, ...]]:
    """Apply ``--mask.acceleration 8``, ``--mask.kind radial`` and so on, the flags of earlier versions.

    Args:
        argv: arguments.
        masks: settings that the flags change; there may be several only if no flag is given.
        several: a flag may have several values; each makes a setting of its own.

    Returns:
        The remaining arguments, and the settings.

    Raises:
        ValueError: a flag has no value, has another number of values than the other flags, or names an unknown field;
            or a flag is given although there are several settings.

    Example:
        >>> apply_old_mask_flags(["--mask.acceleration=8", "--seed=1"], (MaskConfig(),), several=False)[0]
        ['--seed=1']
    """
    remaining: list[str] = []
    given: dict[str, list[str]] = {}
    queue = list(argv)
    while queue:
        text = queue.pop(0)
        if not text.startswith("--mask."):
            remaining.append(text)
            continue
        name, equals, value = text.removeprefix("--mask.").partition("=")
        given[name] = [value] if equals else []
        while not equals and queue and not queue[0].startswith("--") and (several or not given[name]):
            given[name].append(queue.pop(0))
    if not given:
        return remaining, masks
    if len(masks) > 1:
        name = next(iter(given))
        raise ValueError(f"--mask.{name} changes one mask, and there are {len(masks)}; give all by --masks")
    number = max(map(len, given.values()))
    if not number or any(len(values) not in (1, number) for values in given.values()):
        raise ValueError("the --mask. flags have different numbers of values; give each one, or all as many")
    settings = [{name: each[min(i, len(each) - 1)] for name, each in given.items()} for i in range(number)]
    return remaining, tuple(dataclasses.replace(masks[0], **_mask_fields(fields)) for fields in settings)


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
    """Let tyro write lines of any length, so that no word of its message is split."""
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
    """Return the text of tyro's message box without its frame of line or ASCII characters."""
    parts: list[list[str]] = [[]]
    for line in box.splitlines()[1:]:
        text = line.strip("│| ")
        if not text.strip("─-╰╯+ "):
            parts.append([])
        else:
            parts[-1].append(" ".join(text.split()))
    kept = [" ".join(part) for part in parts if part and not part[0].startswith(DROPPED_PARTS)]
    return "; ".join(kept).rstrip(".")
