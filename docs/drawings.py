"""Draw the method as SVG files: ``python docs/drawings.py`` writes docs/figures/*.svg.

Plain boxes and arrows, which a browser shows on light and on dark pages; nothing else is needed to make them.
"""

from html import escape
from pathlib import Path

FIGURES = Path(__file__).resolve().parent / "figures"
HEIGHT = 44  # of a box
FILL = {"data": "#ffffff", "fusion": "#fde8c8", "reconstruction": "#d7e6f7", "physics": "#dff0dc"}
STYLE = (
    "text{font-family:system-ui,Helvetica,Arial,sans-serif;fill:#1c1c1c}"
    ".t{font-size:14px}.s{font-size:11.5px;fill:#444}.l{stroke:#444;stroke-width:1.4;fill:none;marker-end:url(#a)}"
    ".b{stroke:#444;stroke-width:1.2}.g{stroke:#888;stroke-dasharray:5 4;fill:none}"
)


class Drawing:
    """Boxes, arrows and words on a white sheet."""

    def __init__(self, width: int, height: int, description: str) -> None:
        self._head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" aria-label="{escape(description)}">\n<title>{escape(description)}</title>\n'
            f"<style>{STYLE}</style>\n"
            '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path d="M0 0L8 4L0 8z" fill="#444"/></marker></defs>\n'
            f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>'
        )
        self._parts: list[str] = []

    def box(self, x: float, y: float, width: float, words: str, below: str = "", kind: str = "data") -> None:
        """Draw a box with its left upper corner at (x, y), one line in it and a smaller one under that."""
        self._parts.append(
            f'<rect class="b" x="{x}" y="{y}" width="{width}" height="{HEIGHT}" rx="6" fill="{FILL[kind]}"/>'
        )
        self.text(x + width / 2, y + (19 if below else 27), words)
        if below:
            self.text(x + width / 2, y + 35, below, small=True)

    def text(self, x: float, y: float, words: str, *, small: bool = False, anchor: str = "middle") -> None:
        """Write words about (x, y)."""
        self._parts.append(
            f'<text class="{"s" if small else "t"}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(words)}</text>'
        )

    def arrow(self, *points: tuple[float, float]) -> None:
        """Draw an arrow along points."""
        self._parts.append('<path class="l" d="M' + "L".join(f"{x} {y}" for x, y in points) + '"/>')

    def group(self, x: float, y: float, width: float, height: float, words: str) -> None:
        """Draw a dashed frame with a heading."""
        self._parts.append(f'<rect class="g" x="{x}" y="{y}" width="{width}" height="{height}" rx="8"/>')
        self.text(x + 12, y + 19, words, anchor="start")

    def svg(self) -> str:
        """Return the file's text."""
        return "\n".join([self._head, *self._parts, "</svg>"]) + "\n"


def processes() -> Drawing:
    """Draw the two processes of ATLF-Net and what goes into them."""
    d = Drawing(880, 300, "The fusion process makes a fused image of CT and zero-filled MR; the reconstruction uses it")
    d.box(20, 40, 130, "CT", "registered, in [0, 1]")
    d.box(20, 130, 130, "zero-filled MR", "A^H y")
    d.box(20, 228, 130, "measurement", "k-space, mask, maps")
    d.group(185, 20, 460, 160, "fusion process")
    d.box(205, 82, 100, "encoder", "shared", "fusion")
    d.box(330, 50, 135, "GFAB, LRFM", "global features", "fusion")
    d.box(330, 120, 135, "LFAB, LRFM", "local features", "fusion")
    d.arrow((150, 62), (203, 98))
    d.arrow((150, 152), (203, 110))
    d.arrow((305, 98), (328, 76))
    d.arrow((305, 110), (328, 142))
    d.box(520, 82, 110, "decoder", "sigmoid", "fusion")
    d.arrow((465, 72), (518, 96))
    d.arrow((465, 142), (518, 112))
    d.box(670, 82, 180, "fused image x_F", "CT and MR, no truth")
    d.arrow((630, 104), (668, 104))
    d.group(185, 214, 665, 72, "reconstruction process")
    d.box(400, 228, 110, "phase 1", "", "reconstruction")
    d.box(540, 228, 110, "phase 2 ... K", "", "reconstruction")
    d.box(710, 228, 120, "image x")
    d.arrow((150, 250), (398, 250))
    d.arrow((510, 250), (538, 250))
    d.arrow((650, 250), (708, 250))
    d.arrow((760, 126), (760, 196), (595, 196), (595, 226))
    d.arrow((595, 196), (455, 196), (455, 226))
    return d


def fusion() -> Drawing:
    """Draw the fusion process with its two paths for each modality."""
    d = Drawing(
        880, 300, "CT and MR pass one encoder; global and local features of both are fused at low rank and decoded"
    )
    d.box(15, 70, 105, "CT x_c")
    d.box(15, 190, 105, "MR x_u", "undersampled")
    d.box(150, 70, 110, "encoder E", "", "fusion")
    d.box(150, 190, 110, "encoder E", "same weights", "fusion")
    d.arrow((120, 92), (148, 92))
    d.arrow((120, 212), (148, 212))
    for y, name in ((25, "GFAB"), (95, "LFAB"), (165, "GFAB"), (235, "LFAB")):
        d.box(300, y, 110, name, "global" if name == "GFAB" else "local, invertible", "fusion")
        d.arrow((260, 92 if y < 130 else 212), (298, y + 22))
    d.box(490, 70, 130, "LRFM_g", "rank 4, per pixel", "fusion")
    d.box(490, 190, 130, "LRFM_l", "rank 4, per pixel", "fusion")
    d.arrow((410, 47), (488, 84))
    d.arrow((410, 187), (488, 102))
    d.arrow((410, 117), (488, 204))
    d.arrow((410, 257), (488, 222))
    d.box(660, 130, 90, "decoder", "", "fusion")
    d.arrow((620, 92), (658, 146))
    d.arrow((620, 212), (658, 158))
    d.box(785, 130, 80, "x_F", "fused")
    d.arrow((750, 152), (783, 152))
    return d


def phase() -> Drawing:
    """Draw one phase of the reconstruction process."""
    d = Drawing(880, 250, "One phase: gradient step, convolution, AVAT, AdaIN, BRB, convolution, data consistency")
    names = [
        ("gradient", "x - rho A^H(Ax-y)", "physics"),
        ("conv_D", "2 to 32", "reconstruction"),
        ("AVAT", "attention, mu", "reconstruction"),
        ("AdaIN", "style of x_F", "reconstruction"),
        ("BRB", "soft threshold", "reconstruction"),
        ("conv_G", "32 to 2", "reconstruction"),
        ("DC", "weight v", "physics"),
    ]
    x = 40
    for index, (name, below, kind) in enumerate(names):
        width = 124 if index == 0 else 92
        d.box(x, 110, width, name, below, kind)
        d.arrow((x - 22 if index else 8, 132), (x - 2, 132))
        if name == "AdaIN":
            d.box(x - 4, 20, 100, "fused x_F")
            d.arrow((x + 46, 64), (x + 46, 108))
        if name in ("gradient", "DC"):
            d.arrow((x + width / 2, 212), (x + width / 2, 156))
        if name == "gradient":
            start = x + width + 10
        x += width + 24
    d.arrow((x - 24, 132), (872, 132))
    d.text(20, 102, "x", anchor="middle")
    d.text(868, 106, "x", anchor="end")
    d.text(102, 228, "y, M, S: what was measured", small=True)
    d.text(x - 70, 228, "y, M, S", small=True)
    d.arrow((start, 132), (start, 182), (x - 128, 182), (x - 128, 136))
    d.text(455, 200, "the gradient step is added again before DC", small=True)
    return d


DRAWINGS = {"processes": processes, "fusion": fusion, "phase": phase}


def main() -> None:
    """Write every drawing."""
    for name, draw in DRAWINGS.items():
        (FIGURES / f"{name}.svg").write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
