"""Put the results of an evaluation into a model card: ``atlf card SUMMARY CARD``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from beartype import beartype

from atlf_jax.command_line import parse
from atlf_jax.data.files import write_file
from atlf_jax.data.inputs import read_json, reading
from atlf_jax.program import errors_in_one_line

__all__ = ["Arguments", "main", "table"]

START, END = "<!-- scores -->", "<!-- /scores -->"  # a model card's table stands between them


@dataclass(frozen=True)
class Arguments:
    """Put the results of an evaluation into a model card."""

    summary: str
    """The summary.json that atlf evaluate wrote."""
    card: str
    """The card, NAME.md; what stands between its two marks is replaced."""


def main(argv: Sequence[str], program: str = "atlf card") -> None:
    """Parse, read, write; on a mistake say so in one line and exit."""
    with errors_in_one_line(program):
        arguments = parse(Annotated[Arguments, tyro.conf.PositionalRequiredArgs], argv, program=program)
        card = _read_text(arguments.card)
        before, mark, remaining = card.partition(START)
        _, end, after = remaining.partition(END)
        if not (mark and end):
            raise ValueError(f"{arguments.card} has no {START} with {END} after it; write both where the table belongs")
        remedy = "give the summary.json of atlf evaluate"
        with reading(arguments.summary, "a summary", remedy):
            rows = table(read_json(arguments.summary, "a summary", remedy))
        write_file(arguments.card, f"{before}{START}\n{rows}\n{END}{after}".encode())
        print(f"{arguments.card}: table renewed")


@beartype
def table(summary: Mapping[str, Any]) -> str:
    """Write an evaluation's results as Markdown: means over subjects, the worst slice, and expected errors if measured.

    Args:
        summary: what atlf evaluate wrote to summary.json.
    """
    protocol = summary["protocol"]
    lines = [
        f"{protocol['dataset']}, split {protocol['split']}, {protocol['slices']} slices of cases "
        f"{', '.join(protocol['subjects'])}; profile `{protocol['profile']}`. Means over subjects:",
        "",
        "| mask (effective, coverage, hash) | method | PSNR [dB] | by subject | worst slice | SSIM | NMSE | HFEN |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for mask in protocol["masks"]:
        for method in summary["methods"]:
            found = {
                item["metric"]: item
                for item in summary["results"]
                if (item["mask"], item["method"]) == (mask["label"], method)
            }
            psnr = found["psnr"]
            subjects = ", ".join(f"{value:.2f}" for value in psnr["subjects"].values())
            others = " | ".join(f"{found[metric]['mean']:.4f}" for metric in ("ssim", "nmse", "hfen"))
            lines.append(
                f"| {mask['label']} ({mask['effective']:.2f}x, {mask['coverage']:.3f}, `{mask['hash']}`) | {method} | "
                f"{psnr['mean']:.2f} | {subjects} | {psnr['worst']:.2f} ({psnr['worst_name']}) | {others} |"
            )
    expected = summary.get("uncertainty") or []
    if expected:
        lines += [
            "",
            "Expected absolute errors against true ones, pixels inside the body, in units of each slice's maximum:",
            "",
            "| mask | method | mean error | expected off by | below the 90 % bound | Pearson | Spearman | scale |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
    for item in expected:
        scale = f"{item['scale']:.3f}{'' if item['calibrated'] else ' (of these slices)'}"
        lines.append(
            f"| {item['mask']} | {item['method']} | {item['error']:.4f} | {item['calibration_error']:.4f} | "
            f"{100 * item['coverage']:.1f} % | {item['pearson']:.2f} | {item['spearman']:.2f} | {scale} |"
        )
    return "\n".join(lines)


def _read_text(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror})") from error
