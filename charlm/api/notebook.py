"""What a notebook shows: small tables of HTML, readable on light and on dark.

Colours are those of the notebook, or so transparent that they go with any. Every text is escaped.
"""

from collections.abc import Iterable, Mapping
from html import escape

CELL = "text-align:left;padding:2px 8px"
TABLE = "color:inherit"  # a page without a doctype would have tables in black
BAR = "height:0.8em;background:rgba(70,130,220,0.65)"


def facts_table(title: str, facts: Mapping[str, str]) -> str:
    """Return a table of names and what is to be said of each.

    >>> facts_table("a model", {"text": "<b>.txt"})
    '<table ...><caption ...>a model</caption>...&lt;b&gt;.txt...</table>'
    """
    rows = (
        f'<tr><th style="{CELL}">{escape(name)}</th><td style="{CELL}">{escape(fact)}</td></tr>'
        for name, fact in facts.items()
    )
    caption = f'<caption style="{CELL}">{escape(title)}</caption>'
    return f'<table style="{TABLE}">{caption}{"".join(rows)}</table>'


def bar_table(shares: Iterable[tuple[str, float]], note: str = "") -> str:
    """Return a table of names and shares from 0 to 1, each with a bar.

    >>> bar_table([("&", 0.25)])
    '<table ...><tr>...&amp;...25.0 %...width:25.00%...</tr></table>'
    """
    rows = (
        f'<tr><td style="{CELL}"><code>{escape(name)}</code></td>'
        f'<td style="{CELL}">{100 * share:.1f} %</td><td style="{CELL};width:12em">'
        f'<div style="{BAR};width:{100 * share:.2f}%"></div></td></tr>'
        for name, share in shares
    )
    more = f'<caption style="{CELL};caption-side:bottom">{escape(note)}</caption>' if note else ""
    return f'<table style="{TABLE}">{more}{"".join(rows)}</table>'
