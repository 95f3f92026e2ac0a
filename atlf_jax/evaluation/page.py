"""The results of an evaluation as one self-contained HTML page."""

import math
from collections.abc import Mapping
from typing import Any

import jinja2
import markupsafe
from beartype import beartype

from atlf_jax.evaluation import figures, pictures
from atlf_jax.evaluation.calibration import BOUND
from atlf_jax.evaluation.headline import headline
from atlf_jax.evaluation.scoring import BODY_ENDING, leading, quality
from atlf_jax.evaluation.slices import Panel
from atlf_jax.evaluation.study import Section, Study, groups
from atlf_jax.evaluation.tables import metrics_of, results_of
from atlf_jax.evaluation.trial import ZERO_FILLED
from atlf_jax.evaluation.wording import count, heading, interval, number, p_value, plain_title, spread, title
from atlf_jax.metrics import find_metric

__all__ = ["render"]

PROFILE_TEXTS = {
    "picture": "each slice for itself, in units of its full range: PSNR with peak 1, SSIM with data range 1",
    "fastmri": "one value a volume: PSNR peak and SSIM data range are the maximum of the target's volume",
}
METRIC_TEXT = (
    "Magnitude images, neither clipped nor rescaled. SSIM: 7 × 7 uniform window, k1 .01, k2 .03. "
    "NMSE: ‖p − t‖² / ‖t‖². HFEN: Laplacian of Gaussian, 15 × 15, sigma 1.5, nearest edges."
)


@beartype
def render(study: Study, facts: Mapping[str, Any]) -> str:
    """Return the report as one self-contained HTML page.

    Args:
        study: the results.
        facts: the result of ``summary(study)``.
    """
    limits = pictures.error_limits(study.panels)
    whole = [name for name in metrics_of(facts) if not name.endswith(BODY_ENDING)]
    compared = leading(whole)  # in the table of pairs; summary.json has all
    inside = [name for name in metrics_of(facts) if name.endswith(BODY_ENDING)]
    return (
        _pages()
        .get_template("report.html.jinja")
        .render(
            facts,
            headline=headline(facts),
            parts={"Whole picture": whole, "Inside the body": inside},
            results={
                mask["label"]: {method: results_of(facts, mask["label"], method) for method in facts["methods"]}
                for mask in facts["protocol"]["masks"]
            },
            best=_best(facts),
            colours=figures.method_colours(list(facts["methods"])),
            profile_text=PROFILE_TEXTS[study.trial.config.profile],
            metric_text=METRIC_TEXT,
            plots=_plots(study),
            first=plain_title(whole[0]),
            bound=BOUND,
            panels=[_panel(panel, study, limits[panel.mask]) for panel in study.panels],
            compared=compared,
            others=[title(name) for name in whole if name not in compared],
            sections=[_section(section) for section in study.sections],
        )
    )


def _pages() -> jinja2.Environment:
    pages = jinja2.Environment(
        loader=jinja2.PackageLoader("atlf_jax", "evaluation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {
        "number": number,
        "spread": spread,
        "interval": interval,
        "heading": heading,
        "plain_title": plain_title,
        "count": count,
        "p": p_value,
        "breakable": _breakable,
    }
    return pages


def _plots(study: Study) -> dict[str, Any]:
    """Draw the figures of scores, and of expected errors if there are any, for both themes."""
    themes = {"light": False, "dark": True}
    plots: dict[str, Any] = {
        theme: pictures.data_uri(figures.png(figures.metric_figure(study.rows, dark=dark)))
        for theme, dark in themes.items()
    }
    if study.reliability:
        plots["calibration"] = {
            theme: pictures.data_uri(figures.png(figures.calibration_figure(study.reliability, dark=dark)))
            for theme, dark in themes.items()
        }
    return plots


def _breakable(name: str) -> markupsafe.Markup:
    """Let a long name end its line after an underscore, and nowhere inside a word."""
    return markupsafe.escape(name).replace("_", markupsafe.Markup("_<wbr>"))


def _best(facts: Mapping[str, Any]) -> set[tuple[str, str, str]]:
    """Return (mask, method, metric) of the best mean of each column."""
    best = set()
    for mask in facts["protocol"]["masks"]:
        for metric in metrics_of(facts):
            column = {method: results_of(facts, mask["label"], method)[metric]["mean"] for method in facts["methods"]}
            column = {method: mean for method, mean in column.items() if not math.isnan(mean)}
            if column:
                choose = min if find_metric(metric).lower_is_better else max
                best.add((mask["label"], choose(column, key=lambda method: column[method]), metric))
    return best


def _panel(panel: Panel, study: Study, limit: float) -> dict[str, Any]:
    """Return one slice as columns of pictures for the template."""
    scored = [row for row in study.rows if row.mask == panel.mask]
    values = {row.method: row.values for row in scored if row.record == panel.record}
    lead = next(iter(study.methods), ZERO_FILLED)
    ranked = sorted((row for row in scored if row.method == lead), key=quality)
    place = next(rank for rank, row in enumerate(ranked, 1) if row.record == panel.record)
    place = {1: "worst", len(ranked): "best"}.get(place, f"{place}. from the worst")
    cards = pictures.cards(panel, values, limit=limit)
    return {
        "mask": panel.mask,
        "hash": panel.sampling.hash,
        "title": f"{panel.name}, subject {panel.subject}: {place} of {len(ranked)}",
        "lead": lead,
        "side": max(cell.picture.width for card in cards for cell in card),
        "cards": [
            [
                {
                    "title": cell.title,
                    "uri": pictures.data_uri(cell.picture),
                    "width": cell.picture.width,
                    "height": cell.picture.height,
                    "caption": cell.caption,
                }
                for cell in card
            ]
            for card in cards
        ],
    }


def _section(section: Section) -> dict[str, Any]:
    """Return a section for the template: texts of its table, and its figure for both themes."""
    themes = {"light": False, "dark": True}
    return {
        "title": section.title,
        "remarks": section.remarks,
        "headings": [each for each in section.table[0] if each != section.group] if section.table else [],
        "groups": groups(section),
        "plots": {theme: pictures.data_uri(figures.png(section.figure(dark))) for theme, dark in themes.items()}
        if section.figure
        else {},
    }
