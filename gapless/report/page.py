"""The report of some runs: one page that needs no network, and the same as Markdown, LaTeX and figures for papers."""

from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment

from gapless import __version__
from gapless.errors import DataError
from gapless.eval import Embeddings
from gapless.eval.compare import columns, evaluations
from gapless.models import RANDOM
from gapless.report.document import latex_of, markdown_of
from gapless.report.escaping import script
from gapless.report.figures import draw_panels, embedding_maps
from gapless.report.gallery import POINTS, Embedded, Gallery, embedding_map, load_embedded, retrieval_examples
from gapless.report.panels import MAIN, Panel, as_plotly, cosines, curves, style, variance
from gapless.report.runs import RunRecord, differences
from gapless.report.tables import Cell, Table, best_row, column_of, score_table
from gapless.run_folder import check_file, write_text

ASSETS = files("gapless.report") / "assets"
CSS = {"solid": "solid", "dash": "dashed", "dot": "dotted", "dashdot": "double"}
"""Style sheets' names of plotly's dashes."""
FINAL = (
    column_of("val/centroid_distance"),
    column_of("val/linear_separability"),
    column_of("val/uniformity"),
    column_of("val/alignment"),
    *(column_of(f"val/{side}_retrieval_recall@1", short=True) for side in ("image", "text")),
    column_of("val/loss"),
)


def write_report(
    runs: Sequence[RunRecord], output: Path, title: str | None = None, tables: Sequence[Table] = ()
) -> list[Path]:
    """Write OUTPUT (a page), and beside it the same as .md, .tex and a folder of figures as .pdf and .png.

    Args:
        runs: at least one; their colours follow their order.
        output: the page, ending in .html.
        title: of the page; None names the runs.
        tables: that come first.

    Returns:
        What was written.

    Raises:
        DataError: no run, or a place that cannot be written.
    """
    if not runs:
        raise DataError("report: there is no run to show")
    for suffix in (".html", ".md", ".tex"):
        check_file(output.with_suffix(suffix))
    runs = _distinct(runs)
    title = title or ("Run " + runs[0].name if len(runs) == 1 else f"{len(runs)} runs")
    embedded = [loaded for loaded in map(load_embedded, runs) if loaded]
    panels = list(curves(runs))
    names = [run.name for run in runs]
    lasts = {kept.run.name: kept.last for kept in embedded}
    sections = {
        "Curves": panels,
        "Cumulative explained variance": variance(lasts, names) if embedded else [],
        "Cosines": [cosines(name, features) for name, features in lasts.items()],
    }
    shown = [*tables, final_table(runs), *_result_tables(runs)]
    setup, notes = setup_table(runs), [f"{run.name}: {note}" for run in runs for note in run.notes]
    page = _page(title, runs, embedded, sections, shown, setup, notes)
    figures = _figures(output.with_name(f"{output.stem}_figures"), sections, lasts)
    listed = "".join(
        f"![{path.stem}]({quote(f'{path.parent.name}/{path.name}')})\n\n" for path in figures if path.suffix == ".png"
    )
    text = markdown_of(title, [*shown, setup], notes, f"\n## Figures\n\n{listed}")
    write_text(output.with_suffix(".md"), text)
    write_text(output.with_suffix(".tex"), latex_of(shown))
    # Names of files that are no UTF-8 come as halves of characters, which no page can hold.
    write_text(output, page.encode("utf-8", "backslashreplace").decode())
    return [output, output.with_suffix(".md"), output.with_suffix(".tex"), *figures]


def _distinct(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Runs of the same name get their folder's path for a name."""
    names = [run.name for run in runs]
    for run in runs:
        if names.count(run.name) > 1:
            run.name = str(run.folder)
    return list(runs)


def final_table(runs: Sequence[RunRecord]) -> Table:
    """The last value of the main metrics; nothing is best where runs were evaluated on different data."""
    rows = {run.name: {c.metric: run.curve(c.metric)[-1][1] for c in FINAL if run.curve(c.metric)} for run in runs}
    columns = [c for c in FINAL if any(c.metric in scores for scores in rows.values())]
    epochs = {run.name: run.rows[-1]["epoch"] for run in runs}
    data = {run.name: run.data for run in runs}
    if len(set(data.values())) == 1:
        table = score_table(rows, columns, "Last evaluation")
        note = f"Evaluated pairs: {runs[0].data}." if runs[0].data else ""
    else:
        table = score_table(rows, [c._replace(better="") for c in columns], "Last evaluation")
        note = "These runs were evaluated on different data: their numbers cannot be compared, and none is marked."
        lines = [[*line, Cell(data[line[0].text])] for line in table.rows]
        table = Table(table.title, [*table.header, "evaluated pairs"], lines)
    lines = [[*line, Cell(f"{epochs[line[0].text]:g}")] for line in table.rows]
    return Table(table.title, [*table.header, "epoch"], lines, note)


def _result_tables(runs: Sequence[RunRecord]) -> list[Table]:
    """What gapless eval left in the runs' folders; scores under different settings are different tables."""
    folders = {run.name: run.folder for run in runs if any((run.folder / "results").glob("*.json"))}
    tables = []
    for each in evaluations(columns(folders)):
        names, rows = list(each.results), []
        for metric, values in each.metrics().items():
            if metric.startswith("num_"):
                continue
            best = (
                best_row({n: {metric: v} for n, v in values.items()}, column_of(metric)) if each.same_samples else None
            )
            cells = (Cell(f"{values[n]:.4f}" if n in values else "-", n == best and len(values) > 1) for n in names)
            rows.append([Cell(metric), *cells])
        if each.same_samples:
            note = ""
        else:
            counts = ", ".join(f"{name} {result.num_samples}" for name, result in each.results.items())
            note = f"Not over the same samples ({counts}): these numbers cannot be compared, and none is marked."
        titles = (f"{name} ({RANDOM})" if each.results[name].pretrained == RANDOM else name for name in names)
        tables.append(Table(each.title, ["", *titles], rows, note))
    return tables


def setup_table(runs: Sequence[RunRecord]) -> Table:
    """Where the runs' configurations differ; for a single run all of it that a reader asks for first."""
    if len(runs) == 1:
        parts = ("data.source", "data.batch_size", "model.", "loss.", "optim.lr", "train.epochs", "seed")
        values = {k: [v] for k, v in runs[0].config.items() if k.startswith(parts)}
    else:
        values = differences(list(runs))
    rows = [[Cell(key), *(Cell("-" if v is None else str(v)) for v in each)] for key, each in values.items()]
    without = [run.name for run in runs if not run.config]
    note = f"No config.yaml: {', '.join(without)}." if without else "" if rows else "The configurations are the same."
    title = "Configuration" if len(runs) == 1 else "Where the configurations differ"
    return Table(title, ["", *(run.name for run in runs)], rows, note)


def _page(
    title: str,
    runs: Sequence[RunRecord],
    embedded: Sequence[Embedded],
    sections: dict[str, list[Panel]],
    tables: Sequence[Table],
    setup: Table,
    notes: Sequence[str],
) -> str:
    import plotly.offline

    gallery = Gallery()
    charts, shown = _charts(sections)
    maps = [embedding_map(kept, gallery) for kept in embedded]
    examples = [_examples(kept, gallery) for kept in embedded if _has_texts(kept.run)]
    content = {"charts": charts, "maps": maps, "pictures": gallery.pictures, "captions": gallery.captions}
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string((ASSETS / "page.html.j2").read_text(encoding="utf-8")).render(
        title=title,
        version=__version__,
        runs=[{"name": run.name, "color": style(k)[0], "dash": CSS[style(k)[1]]} for k, run in enumerate(runs)],
        tables=tables,
        setup=setup,
        notes=notes,
        sections=shown,
        maps=[m["run"] for m in maps],
        points=POINTS,
        examples=[each for each in examples if each["by_text"]],
        css=(ASSETS / "page.css").read_text(encoding="utf-8"),
        js=(ASSETS / "page.js").read_text(encoding="utf-8"),
        plotly=plotly.offline.get_plotlyjs(),
        content=script(content),
    )


def _charts(sections: dict[str, list[Panel]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Charts by their id, and for each section which are shown at first and which are folded."""
    charts: dict[str, Any] = {}
    shown: list[dict[str, Any]] = []
    for number, (title, panels) in enumerate(sections.items()):
        listed = [{"title": panel.title, "id": f"{number}-{k}"} for k, panel in enumerate(panels)]
        charts |= {chart["id"]: as_plotly(panel) for chart, panel in zip(listed, panels, strict=True)}
        first = sum(panel.title in MAIN for panel in panels) or len(listed)
        if listed:
            shown.append({"title": title, "charts": listed[:first], "folded": listed[first:]})
    return charts, shown


def _has_texts(run: RunRecord) -> bool:
    return bool(run.config.get("model.towers", "image-text") == "image-text")


def _examples(embedded: Embedded, gallery: Gallery) -> dict[str, Any]:
    """What texts and images of a run find."""
    return {
        "name": embedded.run.name,
        "by_text": [asdict(e) for e in retrieval_examples(embedded, gallery, by_text=True)],
        "by_image": [asdict(e) for e in retrieval_examples(embedded, gallery, by_text=False)],
    }


def _figures(folder: Path, sections: dict[str, list[Panel]], lasts: dict[str, Embeddings]) -> list[Path]:
    """The main curves, the variance and the cosines, and a map of each run, as .pdf and .png."""
    written = []
    for section, panels in sections.items():
        chosen = [panel for panel in panels if panel.title in MAIN] or panels
        for suffix in (".pdf", ".png") if chosen else ():
            path = folder / f"{section.lower().replace(' ', '_')}{suffix}"
            draw_panels(chosen, path)
            written.append(path)
    for suffix in (".pdf", ".png") if lasts else ():
        path = folder / f"maps{suffix}"
        embedding_maps({name: (f.image, f.text) for name, f in lasts.items()}, {}, path)
        written.append(path)
    return written
