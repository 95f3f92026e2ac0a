"""The pages of the site: what they quote exists, every page is reached, and the drawings are those of the script."""

import ast
import importlib.util
import re
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


def module(path: Path) -> ModuleType:
    """Import a script that lies in no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def texts(path: Path) -> list[str]:
    """Return the texts of a Python file, joined as Python joins them, with {} for what is filled in."""

    def of(node: ast.expr) -> str:
        if isinstance(node, ast.JoinedStr):
            return "".join(of(part) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""

    return [
        text
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.expr) and (text := of(node))
    ]


def test_quoted_messages_are_those_of_the_program():
    page = (DOCS / "faq.md").read_text("utf-8")
    quoted = [part for line in re.findall(r"(?m)^#### (.+)$", page) for part in re.findall(r"`([^`]+)`", line)]
    said = [text for file in (ROOT / "atlf_jax").rglob("*.py") for text in texts(file)]
    said.append((ROOT / "Makefile").read_text("utf-8"))
    assert len(quoted) > 40
    assert not [part for part in quoted if not any(part in text for text in said)]


def test_every_page_is_in_the_contents():
    """Sphinx warns of a page outside of all contents; here also where it is not installed."""
    listed = set()
    for page in DOCS.rglob("*.md"):
        for block in re.findall(r"(?ms)^```\{toctree\}$(.*?)^```$", page.read_text("utf-8")):
            names = [line.strip() for line in block.splitlines() if line.strip() and not line.startswith(":")]
            listed |= {(page.parent / name).resolve().relative_to(DOCS).as_posix() for name in names}
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")} - {"index"}
    brought = {f"examples/{path.stem}" for path in (ROOT / "examples").glob("*.py")} - {"examples/pictures"}
    brought |= {f"weights/{path.stem}" for path in (ROOT / "atlf_jax/weights").glob("*.md")} | {"changes"}
    assert listed == pages | brought


def test_drawings_are_those_of_the_script():
    drawings = module(DOCS / "drawings.py")
    for name, draw in drawings.DRAWINGS.items():
        assert (DOCS / "figures" / f"{name}.svg").read_text("utf-8") == draw().svg()


def test_links_that_leave_the_pages_lead_to_copies():
    put_right = module(DOCS / "build.py").put_right
    assert (
        put_right("[a](../examples/masks.py) [b](../../atlf_jax/weights/x.md)")
        == "[a](examples/masks.py) [b](../weights/x.md)"
    )
    leaving = re.compile(r"\]\((?:\.\./)+(?!DESIGN|conventions|trust|training|data)[^)]*\)")
    for page in DOCS.glob("*.md"):
        assert not leaving.findall(put_right(page.read_text("utf-8"))), page


def test_documented_modules_exist():
    for page in (DOCS / "api").glob("*.md"):
        for name in re.findall(r"automodule:: (\S+)", page.read_text("utf-8")):
            assert importlib.util.find_spec(name), (page.name, name)


def test_the_first_lines_run(capsys):
    """The first image of the page for beginners, as it stands there."""
    code = re.search(r"```python\n(.*?)```", (DOCS / "getting-started.md").read_text("utf-8"), re.DOTALL).group(1)
    exec(compile(code, "getting-started.md", "exec"), {})
    assert 10 < float(re.search(r"zero-filled ([\d.]+) dB", capsys.readouterr().out).group(1)) < 35
