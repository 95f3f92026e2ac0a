"""Build the documentation site: ``python docs/build.py`` writes build/site; ``make docs`` installs what it needs first.

The pages in docs/ stay readable where they lie, so that some of their links lead out of the folder. They are copied to
build/docs with what these links lead to, and the links are put right in the copies. Warnings are errors. Examples run
when they changed: remove build/notebooks and build/site to run them all.
"""

import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE, SITE, CACHE = ROOT / "build/docs", ROOT / "build/site", ROOT / "build/notebooks"
BROUGHT_IN = {  # what a page's link names -> where it lies in the site's sources
    "examples/": "examples/",
    "atlf_jax/weights/": "weights/",
    "CHANGELOG.md": "changes.md",
}


def put_right(text: str) -> str:
    """Return a page's text with the links that leave docs/ leading to the copies.

    Example:
        >>> put_right("[a](../examples/masks.py), [b](data.md), in a folder [c](../../CHANGELOG.md)")
        '[a](examples/masks.py), [b](data.md), in a folder [c](../changes.md)'
    """
    names = "|".join(map(re.escape, BROUGHT_IN))
    return re.sub(
        rf"\]\((?P<up>(?:\.\./)*)\.\./(?P<name>{names})", lambda m: f"]({m['up']}{BROUGHT_IN[m['name']]}", text
    )


def bring_together() -> None:
    """Copy the pages, examples, cards and changes to SOURCE; files that did not change keep their time."""
    wanted = {path.relative_to(ROOT / "docs"): path for path in (ROOT / "docs").rglob("*") if path.is_file()}
    wanted |= {Path("examples") / path.name: path for path in (ROOT / "examples").glob("*.py")}
    wanted |= {Path("weights") / path.name: path for path in (ROOT / "atlf_jax/weights").glob("*.md")}
    wanted[Path("changes.md")] = ROOT / "CHANGELOG.md"
    for name, path in wanted.items():
        if "__pycache__" in name.parts:
            continue
        copy, content = SOURCE / name, path.read_bytes()
        if path.suffix == ".md":
            content = put_right(content.decode()).encode()
        if not copy.exists() or copy.read_bytes() != content:
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(content)
    for copy in list(SOURCE.rglob("*")):
        if copy.is_file() and copy.relative_to(SOURCE) not in wanted:
            copy.unlink()


def main() -> int:
    """Build, and return Sphinx's exit code."""
    from sphinx.cmd.build import main as sphinx

    bring_together()
    os.environ["ATLF_NOTEBOOK_CACHE"] = str(CACHE)
    os.environ["ATLF_EXAMPLES"] = (
        "../../examples"  # seen from build/docs/examples, so that pages show no place of a machine
    )
    code = sphinx(["-b", "html", "-W", "--keep-going", *sys.argv[1:], str(SOURCE), str(SITE)])
    if not code:
        print(f"The site: {SITE / 'index.html'}")
    return code


if __name__ == "__main__":
    sys.exit(main())
