"""The results of an evaluation as tables for a terminal of 80 columns."""

from collections.abc import Mapping, Sequence
from typing import Any

from beartype import beartype
from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from atlf_jax.evaluation.calibration import BOUND
from atlf_jax.evaluation.study import Section, groups
from atlf_jax.evaluation.wording import count, heading, interval, number

__all__ = ["metrics_of", "results_of", "tables"]

WHOLE_NAME = 34  # names up to this length are not wrapped: the width that 80 columns leave beside the numbers


@beartype
def tables(facts: Mapping[str, Any], sections: Sequence[Section] = ()) -> list[Table]:
    """Return the tables for the terminal: one for each mask, those of the sections, and one of the methods.

    Args:
        facts: what ``summary`` returned.
        sections: those of the study.
    """
    built = [_results_table(mask, facts) for mask in facts["protocol"]["masks"]]
    for section in sections:
        built += _section_tables(section)
    if facts["uncertainty"]:
        built.append(_uncertainty_table(facts))
    methods = _table(f"on {facts['environment']['device']}", ["method"], ["parameters", "s / slice"])
    for method, known in facts["methods"].items():
        methods.add_row(escape(method), f"{known['parameters']:,}", f"{known['seconds_a_slice']:.3g}")
    return [_whole_names(table) for table in (*built, methods)]


@beartype
def metrics_of(facts: Mapping[str, Any]) -> list[str]:
    """Return the names of the scores in a summary.

    Example:
        >>> metrics_of({"results": [{"metric": "psnr"}, {"metric": "ssim"}, {"metric": "psnr"}]})
        ['psnr', 'ssim']
    """
    return list(dict.fromkeys(item["metric"] for item in facts["results"]))


@beartype
def results_of(facts: Mapping[str, Any], mask: str, method: str) -> dict[str, dict[str, Any]]:
    """Return the results of one method under one mask, by metric.

    Example:
        >>> facts = {"results": [{"mask": "4x", "method": "unet", "metric": "psnr", "mean": 30.0}]}
        >>> results_of(facts, "4x", "unet")["psnr"]["mean"]
        30.0
    """
    return {item["metric"]: item for item in facts["results"] if (item["mask"], item["method"]) == (mask, method)}


def _results_table(mask: Mapping[str, Any], facts: Mapping[str, Any]) -> Table:
    level = f"{100 * facts['protocol']['confidence']:g} % interval"
    table = _table(_mask_line(mask, facts), ["method"], ["mean", "±", level, "slices", "worst"])
    by_method = {method: results_of(facts, mask["label"], method) for method in facts["methods"]}
    for metric in metrics_of(facts):
        table.add_row(f"[bold]{escape(heading(metric))}[/bold]")
        for method, results in by_method.items():
            result = results[metric]
            mean, deviation, slices, worst = (
                number(result[key], metric) for key in ("mean", "deviation", "slice_mean", "worst")
            )
            table.add_row(*map(escape, (method, mean, deviation, interval(result), slices, worst)))
        table.add_section()
    return table


def _section_tables(section: Section) -> list[Table]:
    if not section.table:
        return []
    headings = [each for each in section.table[0] if each != section.group]
    built = []
    for label, rows in groups(section):
        table = _table(f"{section.title} {label}".strip(), headings[:1], [])
        for each in headings[1:]:
            table.add_column(escape(each), justify="right", overflow="fold")
        for row in rows:
            table.add_row(*map(escape, row))
        built.append(table)
    return built


def _table(title: str, text_columns: Sequence[str], number_columns: Sequence[str]) -> Table:
    style = {"box": box.SIMPLE_HEAD, "show_edge": False, "padding": (0, 1, 0, 0)}  # fits 80 columns
    table = Table(title=escape(title), title_justify="left", title_style="bold", **style)
    for each in text_columns:
        table.add_column(escape(each), overflow="fold")
    for each in number_columns:
        table.add_column(escape(each), justify="right", no_wrap=True)
    return table


def _whole_names(table: Table) -> Table:
    """Keep names on one line where they are short enough; the numbers wrap instead."""
    names = table.columns[0]
    names.no_wrap = max(Text.from_markup(str(cell)).cell_len for cell in names.cells) <= WHOLE_NAME
    return table


def _uncertainty_table(facts: Mapping[str, Any]) -> Table:
    title = (
        f"expected errors, of the maximum, and how many lie below the {100 * BOUND:g} % bound; * scale of these slices"
    )
    table = _table(title, ["method"], ["error", "off by", "below", "Pearson", "Spearman", "scale"])
    before = ""
    for item in facts["uncertainty"]:
        if item["mask"] != before:
            table.add_row(f"[bold]{escape(item['mask'])}[/bold]")
            before = item["mask"]
        numbers = [f"{item[name]:.4f}" for name in ("error", "calibration_error")]
        numbers += [f"{100 * item['coverage']:.1f} %", f"{item['pearson']:.2f}", f"{item['spearman']:.2f}"]
        numbers += [f"{item['scale']:.3f}{'' if item['calibrated'] else '*'}"]
        table.add_row(escape(item["method"]), *numbers)
    return table


def _mask_line(mask: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    protocol = facts["protocol"]
    of = f"of {mask['distinct']} masks " if mask["distinct"] > 1 else ""
    low, high = mask["effective_range"]
    between = f" ({low:.2f} to {high:.2f})" if low != high else ""
    return (
        f"{mask['label']} · nominal {mask['nominal']:g}x · effective {mask['effective']:.2f}x{between} · coverage "
        f"{mask['coverage']:.3f} · hash {of}{mask['hash']} · profile {protocol['profile']} · {protocol['dataset']} "
        f"{protocol['split']}: {count(protocol['slices'], 'slice')} of {count(len(protocol['subjects']), 'subject')}"
    )
