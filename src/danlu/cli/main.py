"""The command line: one thin file a command, found by its path; whatever is heavy is imported when it is needed."""

import importlib
import os
import sys

import typer

from danlu.core import discover
from danlu.core.errors import DanluError

_EPILOGUE = "DANLU_DEBUG=1, or --debug after the command, shows the full traceback of an error."


def main(arguments: list[str] | None = None) -> None:
    """Runs one command. Exits with 0 when done, 1 when the run failed, 2 when the request was wrong."""
    words = sys.argv[1:] if arguments is None else arguments
    words, debug = _without_debug(words)
    if not debug:
        _hush_libraries()
    try:
        _app()(words, prog_name="danlu", obj=words)
    except DanluError as error:
        if debug:
            raise
        _tell(error)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        # the reader of our output (head, less) has gone; Python would complain once more when it flushes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except Exception as error:
        if debug:
            raise
        _confess(error)
        raise SystemExit(1) from None


def _app() -> typer.Typer:
    app = typer.Typer(
        help="danlu takes a large model through its whole life from one recipe.",
        epilog=_EPILOGUE,
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
    app.callback(invoke_without_command=True)(_version)
    modules = [importlib.import_module(dotted) for dotted in discover.paths("danlu.cli.commands").values()]
    for module in sorted(modules, key=lambda module: module.POSITION):
        app.command(name=module.__name__.rpartition(".")[2], no_args_is_help=False)(module.command)
    return app


def _version(version: bool = typer.Option(False, "--version", help="Say which version this is.")) -> None:
    if version:
        from danlu import __version__

        typer.echo(f"danlu {__version__}")
        raise typer.Exit


def _without_debug(words: list[str]) -> tuple[list[str], bool]:
    """Takes `--debug` out, wherever it stands before a `--`, so that no command has to know it."""
    end = words.index("--") if "--" in words else len(words)
    kept = [word for word in words[:end] if word != "--debug"] + words[end:]
    return kept, len(kept) < len(words) or os.environ.get("DANLU_DEBUG", "") not in ("", "0")


def _hush_libraries() -> None:
    """Keeps libraries from talking over the messages; what they raise is still heard."""
    import logging
    import warnings

    warnings.simplefilter("ignore", FutureWarning)
    for name in ("torchao", "torch.utils._pytree", "transformers", "torch.distributed", "httpx", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name, value in (("TRANSFORMERS_VERBOSITY", "error"), ("HF_HUB_DISABLE_PROGRESS_BARS", "1")):
        os.environ.setdefault(name, value)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


def _tell(error: DanluError) -> None:
    """The message on stderr; one of several processes leaves it with their launcher, which says the first once."""
    from danlu.dist.launch import tell_launcher

    if not tell_launcher(f"danlu: {error}", error.exit_code):
        typer.secho("danlu: ", fg="red", bold=True, nl=False, err=True)
        typer.echo(str(error), err=True)


def _confess(error: Exception) -> None:
    import traceback

    place = traceback.extract_tb(error.__traceback__)[-1]
    typer.secho("danlu has a bug: ", fg="red", bold=True, nl=False, err=True)
    typer.echo(f"{type(error).__name__}: {error} ({place.filename}, line {place.lineno}).", err=True)
    typer.echo("Run the same command again with --debug and report what it prints, with `danlu doctor`.", err=True)


if __name__ == "__main__":
    main()
