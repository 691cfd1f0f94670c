"""The page of one run: what was trained on what, how it went, how good it is, and what it recommends."""

from collections.abc import Iterable
from pathlib import Path

from trainer.dataset.dataset import Dataset
from trainer.dataset.split import PARTS
from trainer.formatting import format_bytes, format_count
from trainer.inspection.plan_picture import picture
from trainer.page.charts import curve
from trainer.page.document import Page, chart_grid
from trainer.page.html import Html, facts, missing, note, paragraph, table, tag
from trainer.report.choice import choice
from trainer.report.examples import Example
from trainer.report.facts import RunFacts, format_setting, settings_of_run, without_places
from trainer.report.item_map import ItemMap
from trainer.report.measurement import Measurement
from trainer.report.quality import quality
from trainer.report.recommendations import map_section, users_section
from trainer.report.summary import cost, summary
from trainer.reporting.dataset_summary import DROPPED
from trainer.reporting.dataset_summary import summary as data_summary


def run_page(
    run: RunFacts, measured: Measurement | str, users: list[Example] | None, item_map: ItemMap | None
) -> Page:
    """Return the page of one run.

    Args:
        run: The run.
        measured: Its evaluation, or a sentence on why there is none.
        users: Examples; None: the tables are too large for them.
        item_map: Map of its items; None where there is none.
    """
    page = Page(run.label, subtitle(run), summary(run, measured))
    page.add("data", "What was trained on what", *_data(run, measured), *_settings(run))
    page.add("training", "Training", *_training(run))
    page.add("quality", "Quality", *quality(run, measured))
    page.add("choice", "How the settings were chosen", *choice(run))
    page.add("ranks", "Tables, ranks and memory", *_ranks(run))
    page.add("map", f"Map of the {run.vocabulary.item_name}s", *map_section(run, item_map, users is None))
    page.add("users", "What it recommends", *users_section(run, users))
    return page


def subtitle(run: RunFacts) -> str:
    """Return data and model of a run in a line."""
    model, loss = run.config.model, run.config.loss.name
    closed = f" and {model.low_rank} of a closed form" if model.low_rank else ""
    history = "" if model.history in (None, "none", False) else f", history {model.history}"
    return f"{_data_name(run)}: two towers, {model.dim} dims{closed}, loss {loss}{history}"


def _data_name(run: RunFacts) -> str:
    file = without_places({"data.interactions": run.config.data.interactions})["data.interactions"]
    return f"{run.config.data.name} ({file})" if file else run.config.data.name


def _data(run: RunFacts, measured: Measurement | str) -> Iterable[Html]:
    vocabulary = run.vocabulary
    users, items = len(vocabulary.user_ids), len(vocabulary.item_ids)
    before = int(vocabulary.seen.lengths().sum())
    shown: dict[str, object] = {
        "data": _data_name(run),
        "users": f"{users:,}",
        f"{vocabulary.item_name}s": f"{items:,}",
        "interactions before the test part" if run.measured else "interactions": f"{before:,}",
    }
    if vocabulary.held_out is not None and run.measured:
        shown["interactions in the test part"] = f"{int(vocabulary.held_out.lengths().sum()):,}"
    shown["density"] = f"{before / max(users * items, 1):.2%}"
    if isinstance(measured, Measurement):
        shown |= _prepared(measured.dataset)
    if origin := run.metrics.get("from"):
        shown["started from"] = Path(origin["run"]).name
    attributes = {
        "query tower": run.config.model.user_features,
        "candidate tower": run.config.model.item_features,
    }
    shown |= {f"attributes in the {tower}": ", ".join(names) for tower, names in attributes.items() if names}
    yield facts(shown)
    if isinstance(measured, Measurement) and measured.dataset.notes:
        yield note(" ".join(f"{each}." for each in measured.dataset.notes))


def _prepared(dataset: Dataset) -> dict[str, object]:
    """Return what is known of data that are still there."""
    found = data_summary(dataset)
    sizes = ", ".join(f"{found['split'][part]:,} {part}" for part in PARTS if found["split"][part])
    shown: dict[str, object] = {"split": f"{found['split']['rule'].replace('_', ' ')}: {sizes}"}
    if found["times"]:
        shown["from, to (UTC)"] = " to ".join(moment.split(" ")[0] for moment in found["times"])
    dropped = {name: count for name, count in found["dropped"].items() if count}
    rows = [f"{found['read']:,} read"] + ([f"{found['skipped']:,} skipped"] if found["skipped"] else [])
    rows += [f"{count:,} {DROPPED[name]}" for name, count in dropped.items()]
    return shown | {"rows": ", ".join(rows)}


def _settings(run: RunFacts) -> Iterable[Html]:
    yield tag("h3", "Settings")
    if run.settings is None:
        values = settings_of_run(run.config)
        origins = [("differs from the default", values)]
        yield missing(
            "This run is of an older version, which did not keep what was asked for and what was decided: "
            "these are all settings that differ from their defaults."
        )
    else:
        settings = run.settings
        origins = [
            ("asked for", without_places(settings.given)),
            ("by the size of the data", without_places(settings.by_size)),
            ("by trial", without_places(settings.by_trial)),
            ("fixed, without a trial", without_places(settings.fixed)),
        ]
        counts = ", ".join(f"{len(of)} {name.partition(',')[0]}" for name, of in origins if of)
        yield note(f"{counts or 'None asked for'}; all others are at their defaults, which --help lists.")
    rows = [
        (tag("code", key), origin, format_setting(value))
        for origin, values in origins
        for key, value in values.items()
    ]
    if rows:
        body = table(["setting", "decided", "value"], rows, texts=2)
        yield tag("details", tag("summary", f"All {format_count(len(rows), 'setting')}"), body)


def _training(run: RunFacts) -> Iterable[Html]:
    losses = run.losses
    if not losses:
        yield missing("The run has no records of its steps (metrics.jsonl).")
        return
    charts = [
        curve("Loss", {run.label: run.over_steps("loss")}, "loss"),
        curve("Learning rate of the tables", {run.label: run.over_steps("learning_rate")}, "rate", zero=True),
    ]
    if validation := run.validations:
        name = run.validation_metric
        points = run.over_steps(f"validation/{name}")
        charts.insert(1, curve(f"Validation {name}", {run.label: points}, name))
    yield chart_grid(charts)
    yield facts(cost(run))
    if validation:
        best = run.metrics.get("validation", {})
        if best:
            early = ", where patience ended the training early" if best["stopped_early"] else ""
            yield note(
                f"Best validation {best['metric']}: {best['best']:.4f} at epoch {best['best_epoch']:g}; the "
                f"last is of epoch {best['last_epoch']:g}{early}. The weights of epoch "
                f"{best['kept_epoch']:g} are kept."
            )
    else:
        yield missing(
            "No validation part was evaluated during the training: --data.validation_size 0.1 cuts one off."
        )


def _ranks(run: RunFacts) -> Iterable[Html]:
    if run.plan is None:
        yield missing("The sharding plan of this run cannot be read (plan.json).")
        return
    speeds = [record["examples_per_second"] for record in run.losses if "examples_per_second" in record]
    if speeds:
        each = (
            f", a mean of {speeds[-1] / run.plan.world_size:,.0f} by each" if run.plan.world_size > 1 else ""
        )
        yield paragraph(f"{speeds[-1]:,.0f} examples a second over all ranks at the end{each}.")
    measured = {int(each["rank"]): each for each in run.ranks}
    on_device = any("device_memory" in each for each in run.ranks)
    heads = [
        "rank",
        "tables and states",
        "of its capacity",
        "lookups a step",
        "sent a step",
        "step, estimated",
    ]
    heads += (["largest memory"] if measured else []) + (["largest on the GPU"] if on_device else [])
    rows = []
    for load in run.plan.ranks:
        cells: list[object] = [
            load.rank,
            format_bytes(load.bytes),
            f"{100 * load.bytes / load.capacity_bytes:.2g}%" if load.capacity_bytes else "-",
            f"{load.lookups:,}",
            format_bytes(load.bytes_sent),
            f"{load.compute_ms + load.communication_ms:.3g} ms",
        ]
        own = measured.get(load.rank, {})
        cells += [format_bytes(own["memory"]) if own else "-"] if measured else []
        cells += [format_bytes(own["device_memory"]) if own else "-"] if on_device else []
        rows.append(cells)
    yield table(heads, rows)
    if not measured:
        yield missing("This run is of an older version, which measured the memory of rank 0 alone.")
    yield tag("div", Html(picture(run.plan)), class_="plan")
    speed, memory = (run.over_steps(name) for name in ("examples_per_second", "memory_mib"))
    if speed and memory:
        yield chart_grid(
            [
                curve("Speed of all ranks", {run.label: speed}, "examples/s", zero=True, large=True),
                curve("Memory of rank 0", {run.label: memory}, "MiB", zero=True),
            ]
        )
