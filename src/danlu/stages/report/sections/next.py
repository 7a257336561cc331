"""How to use what was trained: commands that can be copied."""

from danlu.stages.report.html import render
from danlu.stages.report.records import RunRecords
from danlu.stages.report.section import Html

TITLE = "What to do next"
ORDER = 80


def section(run: RunRecords) -> Html | None:
    """Use the model, or go on with a run that did not come to its end."""
    steps = _use(run) if run.model_config else []
    if run.status in ("failed", "unfinished") and run.of("checkpoint"):
        steps.insert(0, _step("Go on from the last checkpoint", f"danlu train {run.folder / 'recipe.yaml'} --resume"))
    return render("next", steps=steps) if steps else None


def _use(run: RunRecords) -> list[dict[str, str]]:
    folder, model = run.folder, run.folder / "model"
    text = any(record.get("prompt") for record in run.of("sample"))
    prompt = next((str(record["prompt"]) for record in run.of("sample") if record.get("prompt")), "")
    auto = next(iter(run.model_config.get("architectures") or ["AutoModel"]), "AutoModel")  # type: ignore[call-overload]
    auto_class = "AutoModelForCausalLM" if text else auto
    steps = [_step("Let it write", f"danlu generate {folder} {_quoted(prompt)}")] if text else []
    return [
        *steps,
        _step("Measure it on other data", f"danlu evaluate {folder} --data FILE"),
        _step("Run it over a file, a row a line", f"danlu predict {folder} --input FILE --out predictions.jsonl"),
        _step(
            "Use it without danlu: the folder is in Hugging Face's own layout",
            f"from transformers import AutoTokenizer, {auto_class}\n"
            f'model = {auto_class}.from_pretrained("{model}")\n'
            f'tokenizer = AutoTokenizer.from_pretrained("{model}")',
        ),
    ]


def _quoted(text: str) -> str:
    """The text as one word of a shell."""
    return "'" + text.splitlines()[0].replace("'", "'\\''") + "'" if text.strip() else "''"


def _step(words: str, code: str) -> dict[str, str]:
    return {"words": words, "code": code}
