"""The HTML report of an evaluation: one file, pictures inside, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { --ink: #1d2733; --soft: #5b6876; --line: #e1e6eb; --accent: #0072b2; --page: #f6f8fa; --card: #fff }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
main { max-width: 1060px; margin: 0 auto; padding: 32px 20px 64px }
h1 { font-size: 26px; margin: 0 0 4px } h2 { font-size: 18px; margin: 36px 0 10px } p { margin: 6px 0 }
.soft { color: var(--soft) } code { font-size: 13px }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 20px 0 }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px }
.tile b { display: block; font-size: 24px; font-weight: 650; font-variant-numeric: tabular-nums }
.tile span { color: var(--soft); font-size: 13px }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(400px, 1fr)); gap: 14px }
.card { overflow-x: auto; margin-bottom: 14px } .pair .card { margin: 0; align-content: center }
.card img { display: block; max-width: min(100%, 820px); height: auto; margin: 0 auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 14px }
th, td { padding: 5px 10px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
th { color: var(--soft); font-weight: 600; white-space: normal; vertical-align: bottom }
tr.kind td { color: var(--soft); font-weight: 600; background: var(--page) } th:first-child, td:first-child { text-align: left }
tr:last-child td { border-bottom: 0 } td.note { color: var(--soft); text-align: left; white-space: normal }
@media (max-width: 520px) { .pair { grid-template-columns: 1fr } }
@media print { body { background: #fff } .card, .tile { break-inside: avoid } }
</style>
</head>
<body><main>
<h1>$title</h1>
<p class="soft">$subtitle</p>
$body
</main></body></html>
""")

_COUNTS = "<p class='soft'>In brackets: genuine and impostor trials.</p>"

Cell = str | float | int | None


def render(result: Mapping[str, Any], pictures: Mapping[str, Path]) -> str:
    """The page of an evaluation; see `train.evaluate_report.analyse` for what `result` holds."""
    parts = [_tiles(result), _pair(pictures, "det", "scores"), _pair(pictures, "roc", "decisions")]
    parts += [_costs(result), _thresholds(result), _optima(result)]
    if result.get("groups"):
        parts += [
            "<h2>By group</h2>",
            _COUNTS,
            _card(pictures, "groups"),
            _rate_table(result["groups"], "group", "kind"),
        ]
    if result.get("by_enrollments"):
        parts += [
            "<h2>By number of enrollments</h2>",
            "<p class='soft'>Voiceprints against the same probes each time; impostors are of one source with"
            " the voiceprint where sources are known. The score of a voiceprint is not that of a pair:"
            " FMR 1 % is what the policy's threshold for pairs comes to here.</p>",
            _rate_table(result["by_enrollments"], "enrollments"),
        ]
    parts += [_identification(result, pictures), _conditions(result, pictures), _data(result)]
    return _PAGE.substitute(
        title=escape(f"{result['model']} on {result['list']}"),
        subtitle=escape(
            f"model {result['model_id']} · {result['trials']:,} trials · {result.get('date', '')}"
        ),
        body="\n".join(part for part in parts if part),
    )


def percent(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def interval(ends: Sequence[float] | None) -> str:
    return "–" if ends is None else f"{100 * ends[0]:.2f} – {100 * ends[1]:.2f} %"


def number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _tiles(result: Mapping[str, Any]) -> str:
    rank = result.get("identification", {}).get("rank_accuracy")
    tiles = [
        (percent(result["eer"]), "EER"),
        (interval(result["eer_interval"]), "95 % interval over speakers"),
        (number(result["min_dcf_01"]), "minDCF(0.01)"),
        (number(result["min_dcf_05"]), "minDCF(0.05)"),
    ]
    if rank:
        size = result["identification"]["gallery"]
        tiles.append((percent(rank[0], 1), f"rank 1 of {size} speakers"))
    if result.get("as_norm"):
        tiles.append((percent(result["as_norm"]["eer"]), "EER with AS-norm"))
    inner = "".join(
        f"<div class='tile'><b{small(value)}>{escape(value)}</b><span>{escape(name)}</span></div>"
        for value, name in tiles
    )
    return f"<div class='tiles'>{inner}</div>"


def small(text: str) -> str:
    return " style='font-size:15px;line-height:36px;white-space:nowrap'" if len(text) > 8 else ""


def _card(pictures: Mapping[str, Path], name: str) -> str:
    if name not in pictures:
        return ""
    data = base64.b64encode(pictures[name].read_bytes()).decode()
    return f"<div class='card'><img alt='{escape(name)}' src='data:image/png;base64,{data}'></div>"


def _pair(pictures: Mapping[str, Path], *names: str) -> str:
    return f"<div class='pair' style='margin-bottom:14px'>{''.join(_card(pictures, n) for n in names)}</div>"


def table(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A card with a table. A row of one cell heads those below it; a last column without a name holds notes,
    and is left out where there are none."""
    if head[-1] == "" and not any(row[-1] for row in rows if len(row) > 1):
        head, rows = head[:-1], [row[: len(head) - 1] for row in rows]
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(_row(head, row) for row in rows)
    return f"<div class='card'><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>"


def _row(head: Sequence[str], row: Sequence[Cell]) -> str:
    if len(row) == 1:
        return f"<tr class='kind'><td colspan='{len(head)}'>{escape(str(row[0]))}</td></tr>"
    cells: list[str] = []
    for name, cell in zip(head, row, strict=True):
        note = " class='note'" if cells and not name else ""
        cells.append(f"<td{note}>{escape('–' if cell is None else str(cell))}</td>")
    return f"<tr>{''.join(cells)}</tr>"


def _costs(result: Mapping[str, Any]) -> str:
    rows = [
        (
            f"p_target {cost['p_target']:g}, C_miss {cost['c_miss']:g}, C_fa {cost['c_fa']:g}",
            number(cost["min_dcf"]),
            "–" if cost["interval"] is None else f"{cost['interval'][0]:.3f} – {cost['interval'][1]:.3f}",
            number(cost["threshold"]) if cost["threshold"] is not None else "reject all",
            number(cost["act_dcf"]),
        )
        for cost in result["costs"]
    ]
    note = escape(f"Cllr {number(result['cllr'])}, minCllr {number(result['min_cllr'])} bits")
    if "no_cllr" in result:
        note += f" ({escape(result['no_cllr'])})"
    head = ("Application", "minDCF", "95 % interval", "Threshold", "actDCF")
    return f"<h2>Costs, normalised as NIST does</h2>{table(head, rows)}<p class='soft'>{note}</p>"


def _thresholds(result: Mapping[str, Any]) -> str:
    if not result["at_policy_thresholds"]:
        return ""
    rows = [
        (name, number(at["threshold"]), percent(at["fmr"], 3), percent(at["fnmr"]))
        for name, at in result["at_policy_thresholds"].items()
    ]
    here = "<h2>The model's own thresholds on this list</h2>" + table(
        ("Row of the policy", "Threshold", "FMR here", "FNMR here"), rows
    )
    tuned = result["at_tuning"]
    if not tuned or "rows" not in tuned:
        return here
    keys = ("fmr_in_sample", "fmr_cross_fitted", "fnmr_in_sample", "fnmr_cross_fitted")
    rows = [
        (name, *(percent(row[key], 3 if key.startswith("fmr") else 2) for key in keys))
        for name, row in tuned["rows"].items()
    ]
    head = ("Row of the policy", "FMR in sample", "FMR cross-fitted", "FNMR in sample", "FNMR cross-fitted")
    return (
        f"{here}<p class='soft'>On the speakers that set them ({escape(tuned['speakers_from'])}). Cross-fitted: each trial"
        f" is decided by the threshold of people who are not in it, in {tuned['folds']} folds.</p>{table(head, rows)}"
    )


def _optima(result: Mapping[str, Any]) -> str:
    rows = [
        (
            name.replace("_", " "),
            number(best["threshold"]),
            percent(best["fmr"], 3),
            percent(best["fnmr"]),
            number(best["precision"]),
            number(best["recall"]),
        )
        for name, best in result["optima"].items()
    ]
    return (
        "<h2>Best thresholds on this list</h2>"
        + table(("", "Threshold", "FMR", "FNMR", "Precision", "Recall"), rows)
        + "<p class='soft'>Precision, F1 and accuracy hold for this list's mix of genuine and impostor trials"
        " alone.</p>"
    )


def _rate_table(rows: Sequence[Mapping[str, Any]], key: str, kind: str | None = None) -> str:
    shown: list[tuple[Cell, ...]] = []
    for before, row in zip([None, *rows], rows, strict=False):
        if kind and (before is None or before[kind] != row[kind]):
            shown.append((row[kind],))
        at = (row.get("at") or {}).get("fmr_1pct")
        shown.append(
            (
                str(row[key]),
                f"{row.get('genuine', 0):,}",
                f"{row.get('impostor', 0):,}",
                row.get("speakers"),
                percent(row["eer"]),
                interval(row.get("eer_interval")),
                number(row.get("min_dcf_05")),
                percent(at["fmr"], 2) if at else "–",
                row.get("reason", ""),
            )
        )
    head = ("", "Genuine", "Impostor", "Speakers", "EER", "95 % interval", "minDCF(0.05)", "FMR 1 %", "")
    return table(head, shown)


def _identification(result: Mapping[str, Any], pictures: Mapping[str, Path]) -> str:
    found = result.get("identification")
    if not found:
        return ""
    if "reason" in found:
        return f"<h2>Identification</h2><p class='soft'>{escape(found['reason'])}</p>"
    opened = found["open_set"]
    rows = [
        (
            percent(rate["fpir"], 0),
            number(rate["threshold"]),
            percent(rate["dir"], 1),
            rate["reason"] or "",
        )
        for rate in opened["rates"]
    ]
    text = (
        f"<p class='soft'>{found['enrollments']} enrollments a speaker, {found['gallery']} speakers,"
        f" {found['probes']:,} probes. Open set: {opened['gallery']} speakers enrolled,"
        f" {opened['probes_of_strangers']:,} probes of {opened['strangers']} strangers.</p>"
    )
    head = ("Strangers with a candidate (FPIR)", "Threshold", "Enrolled found at rank 1 (DIR)", "")
    return (
        f"<h2>Identification</h2>{text}<div class='pair'>{_card(pictures, 'ranks')}{table(head, rows)}</div>"
    )


def _conditions(result: Mapping[str, Any], pictures: Mapping[str, Path]) -> str:
    found = result.get("conditions")
    if not found:
        return ""
    rows: list[tuple[Cell, ...]] = []
    for row in found["rows"]:
        clean, matched = row["clean_enrollment"], row["matched"]
        rows.append(
            (
                row["condition"],
                f"{clean['trials']:,}",
                percent(clean["eer"]),
                interval(clean.get("eer_interval")),
                percent(matched["eer"]),
            )
        )
    for row in found["lengths"]:
        rows.append(
            (
                f"{row['seconds']:g} s of speech",
                f"{row['trials']:,}",
                percent(row["eer"]),
                interval(row.get("eer_interval")),
                None,
            )
        )
    head = ("Probe", "Trials", "EER, enrollment clean", "95 % interval", "EER, enrollment alike")
    text = f"<p class='soft'>{found['recordings']} recordings; {escape(found['backgrounds'])}</p>"
    pictures_ = _card(pictures, "conditions") + _card(pictures, "crossed")
    return f"<h2>By condition</h2>{text}{table(head, rows)}<div style='height:14px'></div>{pictures_}"


def _data(result: Mapping[str, Any]) -> str:
    rows: list[tuple[Cell, ...]] = [
        ("Trials", f"{result['trials']:,}"),
        ("Genuine", f"{result['genuine']:,}"),
        ("Impostor", f"{result['impostor']:,}"),
        ("Recordings", f"{result['recordings']:,}"),
        ("Speakers", f"{result['speakers']:,}"),
        ("Too little speech to enroll, embedded whole", f"{result['embedded_whole']:,}"),
        ("Trials of a recording with itself", f"{result['self_trials']:,}"),
        ("Labels that the speakers contradict", f"{result['contradictory_labels']:,}"),
    ]
    note = escape(result["interpolation"])
    if "no_interval" in result:
        note += f"<br>No interval: {escape(result['no_interval'])}."
    return f"<h2>What was measured</h2>{table(('', 'Count'), rows)}<p class='soft'>{note}</p>"
