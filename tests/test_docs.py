"""The documentation's links lead somewhere, and its pages keep their length."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("atlf_jax/**/*.md")])
LINK = re.compile(r"\]\((?!https?://|mailto:)([^)\s]+)\)")


def without_code(text: str) -> str:
    """Leave out fenced blocks, whose # are comments and whose brackets are Python's."""
    return re.sub(r"(?ms)^```.*?^```", "", text)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    seen: dict[str, int] = {}
    for heading in re.findall(r"(?m)^#+ +(.+?)\s*$", without_code(page.read_text(encoding="utf-8"))):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        seen[anchor] = seen.get(anchor, -1) + 1
        found.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
    return found


def decisions() -> list[str]:
    """Return the numbered entries of docs/DESIGN.md."""
    return re.split(r"(?m)^(?=\d+\. )", (ROOT / "docs/DESIGN.md").read_text(encoding="utf-8"))[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page):
    broken = []
    for link in LINK.findall(without_code(page.read_text(encoding="utf-8"))):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_a_heading_that_is_gone_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# `a` against B+ (4)\n## Same\n## Same\n```\n# no heading\n```\n")
    assert anchors(page) == {"a-against-b-4", "same", "same-1"}


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_decisions_are_short_and_numbered():
    entries = decisions()
    assert [entry.partition(".")[0] for entry in entries] == [str(number) for number in range(1, len(entries) + 1)]
    assert not [entry.partition(".")[0] for entry in entries if len(entry.strip().splitlines()) > 10]


def test_cited_decisions_exist():
    """In code, configurations and pages: ``docs/DESIGN.md, 42`` or ``decision 42``."""
    cited = re.compile(r"(?:DESIGN\.md(?:,|\), )|[Dd]ecisions?) *(\d+)(?: and (\d+))?")
    last = len(decisions())
    files = [
        path
        for folder in ("atlf_jax", "configs", "benchmarks", "studies", "docs")
        for path in (ROOT / folder).rglob("*.*")
    ]
    text = {path: path.read_text(encoding="utf-8") for path in files if path.suffix in (".py", ".md")}
    numbers = {path: [int(n) for pair in cited.findall(words) for n in pair if n] for path, words in text.items()}
    assert sum(map(len, numbers.values())) > 20
    assert not {str(path): found for path, found in numbers.items() if not all(1 <= n <= last for n in found)}


def test_cited_pages_exist():
    """A docstring that says "docs/x.md" names a page, and with a heading after it one that has this heading."""
    broken = []
    for folder in ("atlf_jax", "configs", "benchmarks", "studies"):
        for path in (ROOT / folder).rglob("*.py"):
            for page, heading in re.findall(r"(docs/[\w-]+\.md|README)(?:, \"([^\"]+)\")?", path.read_text("utf-8")):
                target = ROOT / ("README.md" if page == "README" else page)
                shown = target.read_text(encoding="utf-8").replace("`", "") if target.exists() else ""
                if not shown or (heading and f"# {heading}\n" not in shown):
                    broken.append((str(path.relative_to(ROOT)), page, heading))
    assert not broken
