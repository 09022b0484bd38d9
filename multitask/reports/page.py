"""One self-contained HTML page: text, tables, figures; offline, on a phone and on paper.

Every function takes plain text, escapes it, and returns HTML.
"""

import base64
import html
import io
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure

# The browser's own colours, light or dark, and half-transparent greys, which suit both. Figures are
# drawn for a light background, so each has its own.
STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 0 auto; padding: 1rem;
       overflow-wrap: break-word }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0 }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem }
h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid #8888 }
nav a { display: inline-block; padding: .2rem 1rem .2rem 0 }
p, ul { max-width: 46rem; margin: .5rem 0; overflow-wrap: anywhere } ul { padding-left: 1.2rem }
p.note, figcaption { opacity: .8; font-size: .9rem }
table { border-collapse: collapse; margin: .5rem 1.5rem .5rem 0;
        font-variant-numeric: tabular-nums }
caption { text-align: left; font-weight: 600; padding: .25rem 0;
          max-width: calc(100vw - 4rem) }
th, td { padding: .2rem 0 .2rem 1rem; text-align: right; vertical-align: top; white-space: nowrap }
thead th { vertical-align: bottom; border-bottom: 1px solid #888; white-space: normal;
           hyphens: none; scroll-snap-align: start }
tbody th { font-weight: inherit; white-space: normal } th:first-child { padding-left: 0 }
th:first-child, .text th, .text td { text-align: left }
.text tbody > tr > * { white-space: pre-line; unicode-bidi: plaintext }
.text tbody th { min-width: 11em } .text tbody th, .text td:last-child { overflow-wrap: anywhere }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8rem;
      margin: 0 0 .5rem 1rem }
tr.best { font-weight: 600; background: #8883 }
/* A shadow at the right where there is more; the end of the table covers it. */
.wide { overflow-x: auto; scroll-snap-type: x proximity;
        background: linear-gradient(Canvas, Canvas) 100% 0 / 1rem 100% no-repeat local,
                    linear-gradient(to left, #8888, #8880) 100% 0 / .8rem 100% no-repeat scroll }
.grid { display: grid; gap: 1rem 2rem;
        grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)) }
.grid > * { min-width: 0 }
figure { margin: .5rem 0; max-width: 32rem } figcaption { line-height: 1.4; padding-top: .25rem }
figure img { display: block; width: 100%; height: auto; box-sizing: border-box; padding: .4rem;
             background: #fff; border-radius: .4rem }
@media (prefers-color-scheme: dark) { figure img { filter: brightness(.85) } }
@media (max-width: 40rem) {
  body { padding: .75rem } table { font-size: .8rem } th, td { padding-left: .5rem }
  td { white-space: normal }
}
@page { margin: 15mm }
@media print {
  body { max-width: none; padding: 0; font-size: 9.5pt }
  .wide { overflow: visible; background: none }
  .grid { grid-template-columns: 1fr 1fr } h2, h3, caption { break-after: avoid }
  figure, tr { break-inside: avoid } tbody tr:first-child { break-before: avoid }
  thead { display: table-header-group } nav { display: none }
}
"""


def escape(text: object) -> str:
    """Text as HTML shows it, in elements and in quoted attributes.

    Paths in it become relative to the working folder, or begin with ~ in the home folder. Half a
    character, which a path can hold and UTF-8 cannot, becomes a question mark.
    """
    text = str(text)
    for folder, short in ((os.getcwd(), "."), (os.path.expanduser("~"), "~")):
        if folder != os.sep:  # a lone slash in a text is no path
            text = re.sub(rf"(?<![\w./~-]){re.escape(folder)}(?![\w.-])", short, text)
    text = text.encode("utf-8", "replace").decode("utf-8")
    return html.escape(text, quote=True)


def page(title: str, parts: Iterable[str]) -> str:
    """The whole document: the title, links to the sections, and the parts one below the other."""
    head = ("<meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width, "
            f"initial-scale=1\"><title>{escape(title)}</title><style>{STYLE}</style>")
    body = "\n".join(parts)
    links = "\n".join(f'<a href="#{name}">{text}</a>'
                      for name, text in re.findall(r'<h2 id="(.+?)">(.+?)</h2>', body))
    return (f"<!doctype html>\n<html lang=\"en\"><head>{head}</head>\n<body>\n<main>\n"
            f"<h1>{escape(title)}</h1>\n<nav aria-label=\"Contents\">{links}</nav>\n"
            f"{body}\n</main></body></html>\n")


def heading(text: str, level: int = 2) -> str:
    """A heading with an id for links; level 2 begins a section of the contents."""
    name = re.sub(r"\W+", "-", text.lower()).strip("-")
    return f'<h{level} id="{name}">{escape(text)}</h{level}>'


def origin(environment: Mapping[str, str]) -> str:
    """When, with which version and by which command it was made; older runs recorded less."""
    version = f"minbert {environment['minbert']}" if "minbert" in environment else None
    known = filter(None, (environment.get("date"), version, environment.get("command")))
    text = " · ".join(known)
    return paragraph(text, note=True) if text else ""


def paragraph(text: str, note: bool = False) -> str:
    """A note is small: how to read what stands beside it."""
    return f"<p{_class('note', note)}>{escape(text)}</p>"


def preformatted(text: str) -> str:
    """Lines as a terminal shows them; long ones wrap."""
    return f"<pre>{escape(text)}</pre>"


def bullets(texts: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"


def table(header: Sequence[str], rows: Sequence[Sequence[object]], best: int | None = None,
          caption: str = "", text: bool = False) -> str:
    """best: index of a highlighted row. text: all columns left-aligned, else numbers right."""
    head = "".join(f"<th scope=\"col\">{escape(cell)}</th>" for cell in header)
    lines = []
    for number, row in enumerate(rows):
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        cells = f"<th scope=\"row\">{escape(row[0])}</th>{cells}"
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
    content = base64.b64encode(svg(drawn)).decode()
    image = f'<img alt="{escape(title)}" src="data:image/svg+xml;base64,{content}">'
    return (f'<figure id="{escape(name)}">{image}'
            f"<figcaption>{escape(caption)}</figcaption></figure>")


def grid(parts: Iterable[str]) -> str:
    """Figures or narrow tables, two side by side where there is room."""
    return f"<div class=\"grid\">{''.join(parts)}</div>"


def svg(drawn: Figure, **settings: object) -> bytes:
    """The figure as SVG whose text stays text; the same figure gives the same bytes.

    Args:
        settings: of matplotlib's savefig.
    """
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "minbert", "svg.fonttype": "none",
                                "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"]}), \
            warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # the browser has others
        drawn.savefig(buffer, format="svg", metadata={"Date": None}, **settings)
    return buffer.getvalue()


def _class(name: str, given: bool) -> str:
    return f' class="{name}"' if given else ""
