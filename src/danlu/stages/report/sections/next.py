"""How to use what was trained: commands that can be copied."""

import shlex

from danlu.stages.report.html import render
from danlu.stages.report.records import RunRecords
from danlu.stages.report.section import Html

TITLE = "What to do next"
ORDER = 80


def section(run: RunRecords) -> Html | None:
    """Use the model, or go on with a run that did not come to its end."""
    steps = _use(run) if run.model_config else []
    halted = run.status in ("failed", "unfinished") or str(run.end.get("reason", "")).startswith("signal")
    if halted and run.of("checkpoint"):
        steps.insert(0, _step("Go on from the last checkpoint", f"danlu train {_quoted(str(run.folder))} --resume"))
    return render("next", steps=steps) if steps else None


def _use(run: RunRecords) -> list[dict[str, str]]:
    folder, model = _quoted(str(run.folder)), run.folder / "model"
    text = any(record.get("prompt") for record in run.of("sample"))
    prompt = next((str(record["prompt"]) for record in run.of("sample") if record.get("prompt")), "")
    auto = next(iter(run.model_config.get("architectures") or ["AutoModel"]), "AutoModel")  # type: ignore[call-overload]
    pictures = any(record.get("picture") for record in run.of("sample"))
    tools = "AutoImageProcessor" if pictures else "AutoTokenizer"
    auto_class = "AutoModelForCausalLM" if text else auto
    steps = [_step("Let it write", f"danlu generate {folder} {_quoted(prompt)}")] if text else []
    return [
        *steps,
        _step("Measure it on other data", f"danlu evaluate {folder} --data FILE"),
        _step("Run it over a file, a row a line", f"danlu predict {folder} --input FILE --out predictions.jsonl"),
        _step(
            "Use it without danlu: the folder is in Hugging Face's own layout",
            f"from transformers import {tools}, {auto_class}\n"
            f'model = {auto_class}.from_pretrained("{model}")\n'
            f'{"processor" if pictures else "tokenizer"} = {tools}.from_pretrained("{model}")',
        ),
    ]


def _quoted(text: str) -> str:
    """The text as one word of a shell."""
    return shlex.quote(next((line for line in text.splitlines() if line.strip()), ""))


def _step(words: str, code: str) -> dict[str, str]:
    return {"words": words, "code": code}
