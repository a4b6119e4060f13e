"""Charts as SVG that stands in a page: Vega-Lite, drawn by vl-convert without a browser and without a network.

A chart is drawn twice, for a wide page and for a telephone, and the page shows the one that fits. Its ink is `currentColor`, so that it
follows the page's own light and dark.
"""

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

WIDE, NARROW = 660, 300  # px of a plot
GOOD, BAD, NEUTRAL = "#2a9d8f", "#d1495b", "#7b8794"
COLORS = ["#3b82c4", "#d97706", "#2a9d8f", "#a855a8", "#d1495b", "#7b8794", "#8d6e3f", "#5f6caf"]
INK = {"labelColor": "currentColor", "titleColor": "currentColor", "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
CONFIG = {
    "background": "transparent",
    "padding": {"left": 14, "right": 10, "top": 4, "bottom": 4},  # the reader's font may be wider than the one it was measured in
    "font": "system-ui, sans-serif",
    "axis": {
        **INK,
        "gridColor": "currentColor",
        "gridOpacity": 0.12,
        "domainColor": "currentColor",
        "tickColor": "currentColor",
        "labelLimit": 190,
    },
    "legend": {**INK, "orient": "top", "symbolStrokeWidth": 2},
    "header": {**INK, "labelAnchor": "start", "labelLimit": 400},
    "view": {"stroke": None},
    "range": {"category": COLORS},
}

Spec = dict[str, Any]
Rows = Sequence[Mapping[str, Any]]


def draw(spec: Spec, title: str) -> Markup:
    """The chart at both widths. `title` is what a reader who does not see it is told."""
    wide, narrow = (_svg(_sized(spec, width), title) for width in (WIDE, NARROW))
    return Markup('<div class="chart"><div class="wide">{}</div><div class="narrow">{}</div></div>').format(wide, narrow)


def _sized(spec: Any, width: int) -> Any:
    """The spec with `width` wherever a width is left open."""
    if isinstance(spec, dict):
        return {key: width if key == "width" and value == "open" else _sized(value, width) for key, value in spec.items()}
    return [_sized(one, width) for one in spec] if isinstance(spec, list) else spec


def _svg(spec: Spec, title: str) -> Markup:
    import vl_convert

    text = vl_convert.vegalite_to_svg({"$schema": "https://vega.github.io/schema/vega-lite/v5.json", "config": CONFIG, **spec})
    name = f"c{zlib.crc32(text.encode()):x}"  # no two charts of a page share an id, and equal facts make equal pages
    text = re.sub(r'(id="|url\(#)', rf"\g<1>{name}-", text)
    label = Markup('<svg role="img" aria-label="{}" ').format(title)
    return Markup(text.replace("<svg ", label, 1))


def _facet(field: str, rows: Rows) -> Spec:
    """Small plots below one another, one for each value of a field, in the order in which they come; each under its name."""
    names = list(dict.fromkeys(row[field] for row in rows))
    row = {"field": field, "type": "nominal", "title": None, "sort": names, "header": {"labelOrient": "top", "labelAngle": 0}}
    return {"row": row}


def _values(rows: Rows) -> Spec:
    return {"values": [dict(row) for row in rows]}


def differences(rows: Rows) -> Spec:
    """A forest plot: {suite, against, difference, lower, upper, margin, shown}; what favours the candidate is on the right."""
    sized = {"y": {"field": "against", "type": "nominal", "title": None, "sort": None}}
    return {
        "data": _values(rows),
        "facet": _facet("suite", rows),
        "spec": {
            "width": "open",
            "height": {"step": 26},
            "layer": [
                {"mark": {"type": "rule", "opacity": 0.5, "color": "currentColor"}, "encoding": {"x": {"datum": 0}}},
                {
                    "mark": {"type": "rule", "strokeDash": [4, 3], "color": BAD},
                    "encoding": {"x": {"field": "loss", "type": "quantitative"}},
                },
                {
                    "mark": {"type": "rule", "strokeWidth": 2},
                    "encoding": {
                        **sized,
                        "x": {
                            "field": "lower",
                            "type": "quantitative",
                            "title": "candidate minus other; dashed: the margin",
                            "scale": {"padding": 16},
                        },
                        "x2": {"field": "upper"},
                        "color": _shown(),
                    },
                },
                {
                    "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
                    "encoding": {**sized, "x": {"field": "difference", "type": "quantitative"}, "color": _shown()},
                },
            ],
        },
        "spacing": 6,
    }


def _shown() -> Spec:
    return {
        "field": "shown",
        "type": "nominal",
        "legend": None,
        "scale": {"domain": ["good", "bad", "open"], "range": [GOOD, BAD, NEUTRAL]},
    }


def scores(rows: Rows) -> Spec:
    """Scores with intervals: {suite, model, value, lower, upper, chance}; a small line marks chance."""
    y = {"field": "model", "type": "nominal", "title": None, "sort": None}
    x = {"type": "quantitative", "title": None, "scale": {"domain": [0, 1]}}
    return {
        "data": _values(rows),
        "facet": _facet("suite", rows),
        "spec": {
            "width": "open",
            "height": {"step": 24},
            "layer": [
                {
                    "mark": {"type": "rule", "strokeDash": [2, 3], "opacity": 0.6, "color": "currentColor"},
                    "encoding": {"x": {"field": "chance", **x}},
                },
                {
                    "mark": {"type": "rule", "strokeWidth": 2},
                    "encoding": {"y": y, "x": {"field": "lower", **x}, "x2": {"field": "upper"}, "color": _model()},
                },
                {
                    "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
                    "encoding": {"y": y, "x": {"field": "value", **x}, "color": _model()},
                },
            ],
        },
        "spacing": 6,
    }


def _model() -> Spec:
    return {"field": "model", "type": "nominal", "legend": None, "sort": None}


def curves(rows: Rows) -> Spec:
    """Small plots below one another, one a name: {step, name, value, version}."""
    return {
        "data": _values(rows),
        "facet": _facet("name", rows),
        "spec": {
            "width": "open",
            "height": 90,
            "mark": {"type": "line", "strokeWidth": 1.5},
            "encoding": {
                "x": {"field": "step", "type": "quantitative", "title": None, "axis": {"tickCount": 6}},
                "y": {"field": "value", "type": "quantitative", "title": None, "scale": {"zero": False}, "axis": {"tickCount": 4}},
                "color": {"field": "version", "type": "nominal", "title": None, "sort": None},
            },
        },
        "resolve": {"scale": {"y": "independent"}},
        "spacing": 8,
    }


def shares(rows: Rows) -> Spec:
    """What became of the records: {kind, part, count, place}, a bar a kind, cut into parts in their order."""
    return {
        "data": _values(rows),
        "width": "open",
        "height": {"step": 30},
        "mark": {"type": "bar"},
        "encoding": {
            "y": {"field": "kind", "type": "nominal", "title": None, "sort": None},
            "x": {
                "field": "count",
                "type": "quantitative",
                "title": "share of the records read",
                "stack": "normalize",
                "axis": {"format": "%"},
            },
            "color": {"field": "part", "type": "nominal", "title": None, "sort": None, "legend": {"columns": 3}},
            "order": {"field": "place", "type": "quantitative"},
        },
    }


def bars(rows: Rows, title: str) -> Spec:
    """Counts by label within groups: {group, label, count}."""
    return {
        "data": _values(rows),
        "facet": _facet("group", rows),
        "spec": {
            "width": "open",
            "height": 70,
            "mark": {"type": "bar"},
            "encoding": {
                "x": {"field": "label", "type": "nominal", "title": title, "sort": None, "axis": {"labelAngle": 0}},
                "y": {"field": "count", "type": "quantitative", "title": None, "axis": {"tickCount": 3}},
                "color": {"value": COLORS[0]},
            },
        },
        "resolve": {"scale": {"y": "independent"}},
        "spacing": 8,
    }


def gantt(rows: Rows) -> Spec:
    """Where the time went: {stage, start, end, host}, seconds since the run began."""
    return {
        "data": _values(rows),
        "width": "open",
        "height": {"step": 20},
        "mark": {"type": "bar", "cornerRadius": 2},
        "encoding": {
            "y": {"field": "stage", "type": "nominal", "title": None, "sort": None},
            "x": {"field": "start", "type": "quantitative", "title": "seconds since the run began"},
            "x2": {"field": "end"},
            "color": {"field": "host", "type": "nominal", "title": "worker", "sort": None},
        },
    }
