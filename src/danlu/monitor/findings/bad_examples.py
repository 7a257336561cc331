"""A few examples are unlike all others."""

from danlu.core.action import QuarantineData
from danlu.core.finding import Finding
from danlu.monitor.findings.base import Diagnosis, History


class BadExamples(Diagnosis):
    """Found when examples came in whose input is twenty times as large as any seen, or when a small share stands apart:

    their input is far larger, or the loss of a text far higher, than that of the others, with a gap in between, and
    they are harder to learn (`probes/examples`). Their ids are told, the worst first.
    """

    def diagnose(self, history: History) -> list[Finding]:
        step = history.steps("loss", 1)[0] if history.steps("loss", 1) else 0
        wild = history.steps("wild_examples", 1)
        if wild and wild[0] == step:
            ids = history.examples["wild"]
            sentence = (
                f"{len(ids)} examples came in at step {step} or just before with inputs more than twenty times as "
                "large as usual. Look at how they are read; left in, they throw the weights about"
            )
            leave = QuarantineData(because="their inputs are far too large", example_ids=ids)
            evidence = {"wild_examples": float(len(ids))}
            return self.found(step, sentence, evidence, severity="serious", suggests=(leave,), example_ids=ids)
        share, told = history.series("odd_share", 1), history.steps("odd_share", 1)
        newest = history.steps("examples_known", 1)
        if not share or told != newest:
            return []
        ids = history.examples["odd"]
        sentence = (
            f"{share[0]:.1%} of the examples ({len(ids)}) stand apart from all others and are harder to learn. Look at "
            "them: broken files, another language, or noise"
        )
        leave = QuarantineData(because="they stand apart from all others", example_ids=ids)
        return self.found(told[0], sentence, {"odd_share": share[0]}, suggests=(leave,), example_ids=ids)
