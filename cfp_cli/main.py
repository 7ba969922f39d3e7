"""The entry point of `cfp`, and the one place that turns failures into exit codes.

Exit codes: 0 done, 1 a failure that the message explains, 2 wrong usage, 3 the target cannot be met, 130 interrupted.

Nothing heavy is imported before the signal handlers are in place: Ctrl-C in the first second leaves with 130 too.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from cfp_cli.foundation.streams import open_streams, settle_stdout

if TYPE_CHECKING:
    from cfp_cli.commands.console import Console


def main() -> NoReturn:
    """Run the command line and exit with a code from the list above."""
    # Packages such as torch make half a million objects. By default, Python searches all of them again and again while
    # it imports: a fifth of the time until the first progress bar.
    gc.set_threshold(100_000, 10, 10)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        try:
            open_streams()
            code = _run()
            _ignore_signals()
        except KeyboardInterrupt:
            _ignore_signals()
            code = _print_interrupted()
    except KeyboardInterrupt:
        # `_interrupt` raises only once, but the training loop has a handler of its own.
        _ignore_signals()
        code = _print_interrupted()
    sys.exit(code)


def _run() -> int:
    """Run a command; return its exit code after the message of a failure."""
    import click

    from cfp_cli.commands.cli import cli
    from cfp_cli.commands.config import read_defaults
    from cfp_cli.commands.console import Console
    from cfp_cli.foundation.errors import CfpError, Interrupted
    from cfp_cli.foundation.failures import exhausted, outside_cause

    console = Console()
    try:
        code = cli.main(prog_name="cfp", obj=console, default_map=read_defaults(cli), standalone_mode=False)
        console.finish()
        if sys.stdout is not None:
            sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (Interrupted, click.Abort):
        _ignore_signals()
        return _print_interrupted()
    except click.UsageError as error:
        hint = f"; see `{error.ctx.command_path} --help`" if error.ctx else ""
        if "--input-size" in sys.argv and "unexpected extra argument (" in error.format_message():
            hint = "; write height and width as --input-size 256x512" + hint
        console.error(error.format_message().rstrip(".") + hint)
        return 2
    except click.ClickException as error:
        console.error(error.format_message())
        return error.exit_code
    except BrokenPipeError as error:
        if error.filename == "stdout":
            # The reader has what it wanted, as in `cfp inspect model.pt | head -1`.
            return 1
        return _print_failure(console, error, outside_cause(error) or str(error))
    except CfpError as error:
        message = exhausted(error)
        return _print_failure(console, error, message or str(error), 1 if message else error.exit_code)
    except Exception as error:
        message = outside_cause(error)
        if message is None:
            message = (
                f"{type(error).__name__}: {error}; this is a bug, run the command again with --debug and report it"
            )
        return _print_failure(console, error, message)
    finally:
        console.close()
        settle_stdout()


def _print_failure(console: Console, error: BaseException, message: str, code: int = 1) -> int:
    if console.debug:
        raise error
    try:
        console.error(message)
    # Without memory or file handles, the printer cannot be imported.
    except (OSError, MemoryError, ImportError):
        sys.stderr.write(f"error: {message}\n")
    return code


def _interrupted_message() -> str:
    hint = "; continue with --resume" if sys.argv[1:2] in (["train"], ["finetune"]) else ""
    hint = "; repeat the command to continue" if sys.argv[1:2] == ["shrink"] else hint
    # On a terminal the line of `Console.status` may still be there.
    clear = "\r\x1b[2K" if os.isatty(2) and os.environ.get("TERM") != "dumb" else ""
    return f"{clear}error: interrupted; files written so far are kept{hint}"


def _print_interrupted() -> int:
    print(_interrupted_message(), file=sys.stderr)  # noqa: T201
    return 130


def _interrupt(_number: int, frame: FrameType | None) -> NoReturn:
    # A second signal would interrupt what the first one's error passes through.
    _ignore_signals()
    # Packages such as torch import others from C++. An exception there aborts the process, or is swallowed and leaves a
    # half-imported package. Nothing needs to be cleaned up during an import, so the process ends at once.
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            os.write(2, f"{_interrupted_message()}\n".encode())
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
