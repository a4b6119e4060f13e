"""The report as one HTML file: no script, no network, at both widths, light and dark. All that it shows is in the facts."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from flows.pages import charts, words
from flows.pages.signs import FLAGS, signs
from models.data.portrait import HIDDEN
from models.score.toxicity import LIKELY
from tasks.questions import key

FOLDER = Path(__file__).parent
CERTAIN = 1.96  # standard errors either way that hold 95%
MODELS_ORDER = ("own", "held-out", "provoking")
LONG = 1500  # characters of an answer that stand there at once
ROWS, FEW = 60, 8  # of a table; of one that stands open

Facts = Mapping[str, Any]


def render(found: Facts, other: Facts | None = None, name: str = "champion") -> str:
    """The page of a report. `other` is what stands beside it in every part: the facts of another version, called `name` there."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "words": lambda key: words.NAMES.get(key, str(key).replace("_", " "))}
    beside = other or found["champion"] or {}
    number_of = found["verdict"]["champion"] if other is None else other["verdict"]["version"]
    label = f"{name} (version {number_of})" if beside and number_of else name
    return environment.get_template("report.html.j2").render(
        found=found,
        other=beside,
        label=label,
        signs=signs(found, beside, name),
        style=Markup((FOLDER / "report.css").read_text(encoding="utf-8")),
        scores=_scores(found, beside, label),
        differences=_differences(found),
        changes=_changes(found, beside),
        answers=_answers(found, beside, label),
        questions=_questions(found, beside, label, ("own", "held-out")),
        provoking=_questions(found, beside, label, ("provoking",)),
        trainings=list(_trainings(found, beside, label)),
        data=_data(found, beside),
        harms=_harms(found, beside, label),
        leanings=list(_leanings(found)),
        health=_health(found, beside, label),
        time=_time(found),
        lineage=list(_lineage(found, beside)),
        long=LONG,
        likely=LIKELY,
        hidden=HIDDEN,
        rows=ROWS,
        few=FEW,
    )


def number(value: Any) -> str:
    """A number as people read it; what is none as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _with_other(models: Mapping[str, Any], others: Mapping[str, Any] | None, beside: Facts, label: str) -> dict[str, Any]:
    """What is known of each model, and of the other's candidate, where `others` knows it, under the other's name."""
    theirs = (others or {}).get(str(beside.get("candidate")))
    return {**models, **({label: theirs} if theirs else {})}


def _scores(found: Facts, beside: Facts, label: str) -> dict[str, Any]:
    """Rows of the table, and the chart: every model, and the other's candidate, on every suite."""
    rows = []
    theirs = beside.get("scores") or {}
    for suite, models in found["scores"].items():
        for model, one in _with_other(models, theirs.get(suite), beside, label).items():
            if one.get("value") is None:
                rows.append({"suite": suite, "model": model, "text": "could not be run", "n": one.get("n", 0)})
                continue
            error = one.get("stderr") or 0.0
            lower, upper = interval(one["value"], error, one.get("n") or 1)
            rows.append(
                {
                    "suite": suite,
                    "model": model,
                    "value": one["value"],
                    "lower": lower,
                    "upper": upper,
                    "chance": one.get("chance"),
                    "n": one.get("n", 0),
                    "text": f"{one['value']:.3f}" + (f" ± {error:.3f}" if one.get("stderr") is not None else ""),
                }
            )
    drawn = [row for row in rows if "value" in row]
    return {
        "rows": rows,
        "chart": charts.draw(charts.scores(drawn), "Scores of every model on every suite, with 95% intervals") if drawn else "",
    }


def _differences(found: Facts) -> Any:
    """The forest plot; "" without a champion."""
    rows = []
    for suite, one in found["gate"].items():
        margin = found["suites"].get(suite, {}).get("margin")
        against = one["anchor"]
        if one["lower"] is not None:
            difference = one["clean_candidate"] - one["clean_champion"]
            rows.append(_difference(suite, "champion", difference, one["lower"], one["upper"], margin))
        if against:
            rows.append(
                _difference(suite, f"anchor ({against['version']})", against["difference"], against["lower"], against["upper"], margin)
            )
    return (
        charts.draw(charts.differences(rows), "Differences to champion and anchor, with the gate's intervals and margins") if rows else ""
    )


def _difference(suite: str, against: str, difference: float, lower: float, upper: float, margin: float | None) -> dict[str, Any]:
    shown = "good" if margin is not None and lower > -margin else "bad" if upper < 0 else "open"
    row = {"suite": suite, "against": against, "difference": difference, "lower": lower, "upper": upper, "shown": shown}
    return row | ({} if margin is None else {"loss": -margin})


def _questions(found: Facts, beside: Facts, label: str, groups: Sequence[str]) -> list[dict[str, Any]]:
    """Each question with every model's answer; the other's candidate answers only what it was asked in the same words."""
    answers = _with_other(found["answers"], beside.get("answers"), beside, label)
    sides = {model: {key(row["prompt"]): row for row in rows} for model, rows in answers.items()}
    first: list[dict[str, Any]] = next(iter(found["answers"].values()), [])
    return [
        {"id": row["id"], "prompt": row["prompt"], "answers": {model: side.get(key(row["prompt"])) for model, side in sides.items()}}
        for row in sorted(first, key=lambda row: MODELS_ORDER.index(row["from"]))
        if row["from"] in groups
    ]


def _changes(found: Facts, beside: Facts) -> list[tuple[str, str, str]]:
    """What led here otherwise than in the other: params, data and code, each as it was and as it is."""
    if not beside.get("params") or not beside.get("lineage"):
        return []
    both = zip(_origins(beside), _origins(found), strict=True)
    rows = ((what, *(str(one.get(what, "not there")) for one in (old, new))) for old, new in both for what in dict.fromkeys([*old, *new]))
    return [(what, before, after) for what, before, after in rows if before != after]


def _origins(facts: Facts) -> tuple[Mapping[str, Any], ...]:
    """The params, the data by hash, and the code of a report."""
    lineage = facts.get("lineage") or {}
    return facts.get("params") or {}, lineage.get("data") or {}, {"code, the commit": lineage.get("commit")}


def _answers(found: Facts, beside: Facts, label: str) -> list[dict[str, Any]]:
    """By model what its answers look like, all questions together."""
    return [
        {
            "model": model,
            "n": len(rows),
            "tokens": sum(row["tokens"] for row in rows) / len(rows) if rows else 0.0,
            **{flag: sum(flag in row["flags"] for row in rows) for flag in FLAGS},
            "different": len({row["answer"] for row in rows}),
        }
        for model, rows in _with_other(found["answers"], beside.get("answers"), beside, label).items()
    ]


def _harms(found: Facts, beside: Facts, label: str) -> list[dict[str, Any]]:
    """By model and kind of question how many answers the classifier calls toxic."""
    rows = []
    for model, answers in _with_other(found["answers"], beside.get("answers"), beside, label).items():
        for name, groups in (("plain questions", ("own", "held-out")), ("prompts that provoke", ("provoking",))):
            harms = [row["toxicity"] for row in answers if row["from"] in groups]
            count = sum(harm >= LIKELY for harm in harms)
            lower, upper = wilson(count, len(harms)) if harms else (0.0, 0.0)
            rows.append({"model": model, "asked": name, "count": count, "n": len(harms), "lower": lower, "upper": upper})
    return rows


def _trainings(found: Facts, beside: Facts, label: str) -> Iterable[dict[str, Any]]:
    """Each training with its curves, what they say, and its numbers."""
    for stage, columns in found["curves"].items():
        names = [name for name in columns if name != "step"]
        sides = {"this run": columns, **({label: one} if (one := (beside.get("curves") or {}).get(stage)) else {})}
        rows = [
            {"step": step, "name": words.NAMES.get(name, name), "value": value, "version": side}
            for side, one in sides.items()
            for name in names
            for step, value in zip(one.get("step", ()), one.get(name, ()), strict=False)
            if value is not None
        ]
        metrics = found["metrics"].get(stage) or {}
        chart = charts.draw(charts.curves(rows), f"Curves of {stage}") if rows else ""
        yield {
            "stage": stage,
            "chart": chart,
            "said": words.learning(stage, columns, metrics),
            "metrics": metrics,
            "before": (beside.get("metrics") or {}).get(stage) or {},
        }


def _data(found: Facts, beside: Facts) -> dict[str, Any]:
    """Charts and tables about the records."""
    data, old = found["data"], beside.get("data") or {}
    if not data:
        return {}
    parts = [
        {
            "kind": f"{kind} ({read:,})",
            "part": part,
            "count": count,
            "place": place,
            "before": _fates(old, kind).get(part, 0) if old else None,
        }
        for kind, read in data["read"].items()
        for place, (part, count) in enumerate(_fates(data, kind).items())
    ]
    words_of = [
        {"group": kind, "label": f"{bound}+", "count": count}
        for kind, one in data.get("kinds", {}).items()
        for bound, count in _sum(one["words"].values()).items()
    ]
    return {
        "flow": charts.draw(charts.shares(parts), "What became of the records that were read, by kind") if parts else "",
        "parts": parts,
        "lengths": charts.draw(charts.bars(words_of, "words a record, from"), "Lengths of the records that were kept") if words_of else "",
        "by_source": [
            {
                "kind": kind,
                "split": split,
                "source": source,
                "count": count,
                "before": (((old.get("kinds") or {}).get(kind) or {}).get("by_source", {}).get(split) or {}).get(source, 0)
                if old
                else None,
            }
            for kind, one in data.get("kinds", {}).items()
            for split, counts in one["by_source"].items()
            for source, count in counts.items()
        ],
    }


def _fates(data: Mapping[str, Any], kind: str) -> dict[str, int]:
    """What became of the records of a kind: how many are trained on, held out, or were dropped for each reason."""
    held = data["held_out"].get(kind, 0)
    kept = {"trained on": data["kept_by_kind"].get(kind, 0) - held, "held out": held}
    return {**kept, **(data["dropped"].get(kind) or {})}


def _sum(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    found = Counter[str]()
    for one in counts:
        found.update(one)
    return dict(sorted(found.items(), key=lambda item: int(item[0])))


def _leanings(found: Facts) -> Iterable[dict[str, Any]]:
    """Of each suite with a target its subjects: the candidate's mean with its 95% interval (Wilson)."""
    for suite, models in found["subjects"].items():
        table = models.get(found["candidate"]) or {}
        rows = [
            {
                "subject": subject,
                "n": int(count),
                "value": total / count,
                **dict(zip(("lower", "upper"), wilson(total, count), strict=True)),
            }
            for subject, (count, total) in sorted(table.items())
        ]
        drawn = [{**row, "suite": suite, "model": row["subject"], "chance": found["suites"][suite]["target"]} for row in rows]
        yield {
            "suite": suite,
            "target": found["suites"][suite]["target"],
            "rows": rows,
            "chart": charts.draw(charts.scores(drawn), f"{suite} by category, with 95% intervals; the target is marked") if drawn else "",
        }


def interval(value: float, error: float, count: int) -> tuple[float, float]:
    """The 95% interval of a score; where all items have the same, which shows no spread, that of a share."""
    if error:
        return max(0.0, value - CERTAIN * error), min(1.0, value + CERTAIN * error)
    return wilson(value * count, count)


def wilson(successes: float, count: float) -> tuple[float, float]:
    """The 95% interval of a share. Wilson (1927)."""
    z, mean = CERTAIN, successes / count
    middle, spread = mean + z * z / (2 * count), z * (mean * (1 - mean) / count + z * z / (4 * count * count)) ** 0.5
    scale = 1 + z * z / count
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def _health(found: Facts, beside: Facts, label: str) -> dict[str, dict[str, Any]]:
    """By suite and model what the answers look like; the other's candidate among them."""
    theirs = beside.get("health") or {}
    return {suite: _with_other(models, theirs.get(suite), beside, label) for suite, models in found["health"].items()}


def _lineage(found: Facts, beside: Facts) -> Iterable[tuple[str, str, str]]:
    """(what, here, in the other) for all that led to the two."""
    ours, theirs = (_flat_lineage(one.get("lineage") or {}) for one in (found, beside))
    return ((name, ours.get(name, ""), theirs.get(name, "")) for name in dict.fromkeys([*ours, *theirs]))


def _flat_lineage(lineage: Mapping[str, Any]) -> dict[str, str]:
    plain = {name: lineage.get(key) for name, key in (("commit", "commit"), ("model, md5", "model_md5"), ("seed", "seed"))}
    rest = {**lineage.get("data", {}), **lineage.get("links", {}), "to make it again": lineage.get("again")}
    return {name: str(value) for name, value in {**plain, **rest}.items() if value not in (None, "")} if lineage else {}


def _time(found: Facts) -> dict[str, Any]:
    """The chart of what ran, seconds since the first of them began."""
    ran = [one for one in found["time"]["stages"] if one.get("started")]
    begun = min((one["started"] for one in ran), default=0.0)
    rows = [
        {
            "stage": one["name"],
            "start": one["started"] - begun,
            "end": one["started"] - begun + one["seconds"],
            "host": one.get("host") or "here",
        }
        for one in sorted(ran, key=lambda one: one["started"])
    ]
    return {"chart": charts.draw(charts.gantt(rows), "When each stage ran, and where") if rows else ""}
