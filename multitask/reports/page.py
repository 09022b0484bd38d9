"""One self-contained HTML page: text, tables, figures; offline, on a phone and on paper.

Every function takes plain text, escapes it, and returns HTML.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence

import matplotlib
from matplotlib.figure import Figure

STYLE = """
:root { color-scheme: light }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 0 auto; padding: 1rem;
       color: #1a1a1a;
  background: #fff }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0 }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem }
h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid #bbb }
p, ul { max-width: 46rem; margin: .5rem 0 } ul { padding-left: 1.2rem }
p.note, figcaption { color: #444; font-size: .9rem }
table { border-collapse: collapse; margin: .5rem 0; font-variant-numeric: tabular-nums;
        min-width: min(100%, 20rem) }
caption { text-align: left; font-weight: 600; padding: .25rem 0 }
th, td { padding: .2rem 1rem .2rem 0; text-align: right; vertical-align: top; white-space: nowrap }
th { vertical-align: bottom; border-bottom: 1px solid #666; white-space: normal; hyphens: none }
th:first-child, td:first-child, .text th, .text td { text-align: left }
.text td { white-space: pre-line; overflow-wrap: anywhere }
.text td:first-child { min-width: 10rem }
tr.best { font-weight: 600; background: #f2f2f2 } .wide { overflow-x: auto }
.grid { display: grid; gap: 1rem 1.5rem;
        grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)) }
.grid.even { grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)) }
figure { margin: .5rem 0; max-width: 30rem } figcaption { line-height: 1.4 }
figure img { display: block; width: 100%; height: auto }
@media (max-width: 40rem) {
  body { padding: .75rem } table { font-size: .85rem } th, td { padding-right: .6rem }
  td:first-child { white-space: normal } .text td:first-child { white-space: pre-line }
}
@page { margin: 15mm }
@media print {
  body { max-width: none; padding: 0; font-size: 9.5pt } .wide { overflow: visible }
  .grid, .grid.even { grid-template-columns: 1fr 1fr } h2, h3, caption { break-after: avoid }
  figure, tr { break-inside: avoid } thead { display: table-header-group }
}
"""


def escape(text: object) -> str:
    """Text as HTML shows it, in elements and in quoted attributes."""
    return html.escape(str(text), quote=True)


def page(title: str, parts: Iterable[str]) -> str:
    """The whole document; parts: HTML, one below the other."""
    head = ("<meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width, "
            f"initial-scale=1\"><title>{escape(title)}</title><style>{STYLE}</style>")
    body = "\n".join(parts)
    return (f"<!doctype html>\n<html lang=\"en\"><head>{head}</head>\n"
            f"<body>\n{body}\n</body></html>\n")


def heading(text: str, level: int = 2) -> str:
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str, note: bool = False) -> str:
    """A note is small: how to read what stands beside it."""
    return f"<p{_class('note', note)}>{escape(text)}</p>"


def bullets(texts: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"


def table(header: Sequence[str], rows: Sequence[Sequence[object]], best: int | None = None,
          caption: str = "", text: bool = False) -> str:
    """best: index of a highlighted row. text: all columns left-aligned, else numbers right."""
    head = "".join(f"<th scope=\"col\">{escape(cell)}</th>" for cell in header)
    lines = []
    for number, row in enumerate(rows):
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row)
        lines.append(f"<tr{_class('best', number == best)}>{cells}</tr>")
    about = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (f"<div class=\"wide\"><table{_class('text', text)}>{about}"
            f"<thead><tr>{head}</tr></thead>"
            f"<tbody>{''.join(lines)}</tbody></table></div>")


def figure(name: str, drawn: Figure, title: str, caption: str) -> str:
    """One figure, embedded in the page as a data: URI.

    Args:
        name: Its id, unique on the page.
        title: The alternative text, for readers who cannot see the figure.
        caption: How to read it.
    """
    content = base64.b64encode(_svg(drawn)).decode()
    image = f'<img alt="{escape(title)}" src="data:image/svg+xml;base64,{content}">'
    return (f'<figure id="{escape(name)}">{image}'
            f"<figcaption>{escape(caption)}</figcaption></figure>")


def grid(figures: Sequence[str]) -> str:
    """Figures side by side where there is room: at most three, or two if that leaves none alone."""
    even = len(figures) % 2 == 0 and len(figures) % 3 > 0
    return f"<div class=\"grid{' even' if even else ''}\">{''.join(figures)}</div>"


def _svg(drawn: Figure) -> bytes:
    """The figure as SVG whose text stays text; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "minbert", "svg.fonttype": "none",
                                "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"]}):
        drawn.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _class(name: str, given: bool) -> str:
    return f' class="{name}"' if given else ""
