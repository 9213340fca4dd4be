"""`medsd`: its verbs, and what their ends are to the shell.

Each verb parses its words and calls one function; heavy imports wait until a verb needs them.
"""

from __future__ import annotations

import signal
import sys
from typing import Annotated, NoReturn

import typer

from medsd_ray.cli.cluster import cancel, download, logs, status, submit
from medsd_ray.cli.dashboard import dashboard
from medsd_ray.cli.data import encode, prepare
from medsd_ray.cli.evaluation import augment, evaluate, localize, prompts
from medsd_ray.cli.images import export, generate, insert, predict
from medsd_ray.cli.packages import missing_package, with_packages
from medsd_ray.cli.reader_study import reader_study
from medsd_ray.cli.training import demo, paper, train, tune
from medsd_ray.console import clear
from medsd_ray.errors import InputError, Interrupted, RunError, in_one_line

VERBS = (
    prepare, encode, train, tune, generate, predict, evaluate, localize, insert, augment, prompts, export,
    demo, paper, submit, status, logs, cancel, download, dashboard,
)  # fmt: skip
"""In the order in which `medsd --help` lists them."""

app = typer.Typer(
    name="medsd",
    help="Adapt Stable Diffusion's parts to medical images: prepare, encode, train, generate, evaluate.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verb in VERBS:
    app.command()(with_packages(verb))
for command in reader_study.registered_commands:
    if command.callback is not None:
        command.callback = with_packages(command.callback, "reader-study ")
app.add_typer(reader_study)


@app.callback(invoke_without_command=True)
def without_verb(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show medsd's version and exit.")] = False,
) -> None:
    """What `medsd` does without a verb: it shows its help, or its version."""
    if version:
        import medsd_ray

        print(medsd_ray.__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


def main() -> None:
    """The entry point of the installed `medsd`: runs one verb, and turns the way it ended into an exit code.

    0 is done, 1 a RunError, 2 bad input or a wrong command line, 130 an interrupt. Anything but 0 is said in
    one line on standard error. An exception that is none of these is a fault of medsd: its traceback shows.
    """
    # SIGTERM ends a verb as Ctrl-C does, so that both leave a checkpoint; also where a script's `&` or nohup
    # had Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        # typer turns a KeyboardInterrupt into an exit code; a verb that ends well returns None.
        if app(standalone_mode=False):
            raise KeyboardInterrupt
    except InputError as error:
        _stop(f"medsd: {error}", 2)
    except RunError as error:
        _stop(f"medsd: {error}", 1)
    except ModuleNotFoundError as error:
        line = missing_package(error, sys.argv[1])
        if line is None:
            raise
        _stop(line, 2)
    except (Interrupted, KeyboardInterrupt, typer.Abort) as error:
        _stop(f"medsd: interrupted{f': {error}' if str(error) else ''}", 130)
    except Exception as error:
        # typer's usage errors, such as an unknown option or a missing argument, have this method.
        format_message = getattr(error, "format_message", None)
        if format_message is None:
            raise
        _stop(f"medsd: {format_message().rstrip('.')}; see --help", 2)
    finally:
        clear()


def _stop(line: str, code: int) -> NoReturn:
    clear()
    print(in_one_line(line), file=sys.stderr)
    sys.exit(code)
