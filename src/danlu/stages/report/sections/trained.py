"""What was trained, on what, and where."""

from collections.abc import Mapping

from danlu.core.journal import number
from danlu.stages.report.html import render
from danlu.stages.report.records import RunRecords, mapping
from danlu.stages.report.section import Html
from danlu.stages.report.words import count, significant, size

TITLE = "What was trained"
ORDER = 20


def section(run: RunRecords) -> Html | None:
    """Task, model, data and machine, each on a line."""
    facts = [("Task", _task(run)), ("Model", _model(run)), ("Data", _data(run)), ("Amount", _amount(run))]
    facts += [("Batch", _batch(run)), ("Techniques", _techniques(run)), ("Machine", _machine(run))]
    said = [(name, value) for name, value in facts if value]
    return render("facts", facts=said) if said else None


def _task(run: RunRecords) -> str:
    task = run.recipe.get("task", "")
    kind = task.get("kind", "") if isinstance(task, Mapping) else task
    return str(kind).replace("-", " ").replace("_", " ")


def _model(run: RunRecords) -> str:
    model, config = mapping(run.recipe.get("model")), run.model_config
    design = mapping(model.get("design"))
    origin = model.get("from") or design.get("family") or config.get("model_type") or ""
    said = [str(origin)]
    for key, names, word in (
        ("layers", ("num_hidden_layers", "n_layer"), "layers"),
        ("width", ("hidden_size", "n_embd"), "wide"),
        ("heads", ("num_attention_heads", "n_head"), "heads"),
    ):
        value = design.get(key) or next((config[name] for name in names if name in config), None)
        said += [f"{value} {word}"] if value else []
    parameters, moving = (number(run.start.get(name) or 0) for name in ("parameters", "trainable_parameters"))
    said += [f"{count(parameters)} parameters"] if parameters else []
    if moving and moving != parameters:
        said.append(f"{count(moving)} of them trained")
    adapter = mapping(model.get("adapter"))
    said += [f"through {adapter.get('kind')}"] if adapter else []
    return ", ".join(part for part in said if part)


def _data(run: RunRecords) -> str:
    data = mapping(run.recipe.get("data"))
    source = data.get("train", "")
    text = ", ".join(map(str, source)) if isinstance(source, list) else str(source)
    sizes = [
        f"{count(number(run.start[name]))} {word}"
        for name, word in (
            ("train_examples", "examples to train on"),
            ("train_tokens", "tokens in them"),
            ("valid_examples", "examples kept aside"),
        )
        if run.start.get(name)
    ]
    return ": ".join(part for part in (text, ", ".join(sizes)) if part)


def _amount(run: RunRecords) -> str:
    said = [f"{count(run.newest('tokens'))} tokens"] if run.newest("tokens") else []
    epochs = run.newest("epochs")
    said += [f"{significant(epochs, 2)} passes over the data"] if epochs else []
    said += [f"{count(run.last_step)} steps"] if run.last_step else []
    return ", ".join(said)


def _batch(run: RunRecords) -> str:
    batch = mapping(mapping(run.recipe.get("train")).get("batch"))
    said = [f"{count(number(value))} {unit} a step" for unit, value in batch.items() if isinstance(value, (int, float))]
    micro = run.start.get("micro_batch_tokens")
    said += [f"at most {count(number(micro))} tokens at once in memory"] if micro else []
    return ", ".join(said)


def _techniques(run: RunRecords) -> str:
    techniques = mapping(run.recipe.get("techniques"))
    return ", ".join(_setting(name, options) for name, options in techniques.items())


def _setting(name: str, options: object) -> str:
    inside = ", ".join(f"{key} {value}" for key, value in mapping(options).items() if value)
    return name.replace("_", " ") + (f" ({inside})" if inside else "")


def _machine(run: RunRecords) -> str:
    start = run.start
    said = [str(start[name]) for name in ("device", "precision") if start.get(name)]
    processes = start.get("world_size")
    said += [f"{processes} processes" if processes != 1 else "1 process"] if processes else []
    memory = run.reading("memory_bytes").finite
    said += [f"{size(max(memory))} of memory"] if memory else []
    return ", ".join(said)
