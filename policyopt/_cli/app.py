"""The command line: commands, exit codes, one message per error.

Exit code 0 done; 1 internal error; 2 bad usage or input; 3 budget or risk level cannot be met;
4 a check failed; 130 interrupted.
"""

from __future__ import annotations

import inspect
import io
import os
import re
import sys
import traceback
import zlib
from functools import partial
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from itertools import pairwise
from keyword import iskeyword
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from policyopt import _cli as cli
from policyopt._cli.output import complain, meant, say
from policyopt.runtime._errors import InputError, PolicyOptError, input_error, message
from policyopt.runtime._files import FULL, refused

#: What the parser raises on bad usage, quoting arguments: click's, or typer's copy of it.
Usage: Any = typer.BadParameter.__mro__[2]
#: By name of a command: the module that has its function, and how that one's docstring begins.
COMMANDS = {
    "import": ("info", "Read the outputs of a model into a cache"),
    "info": ("info", "Show what a cache holds, or another file"),
    "methods": ("info", "List the methods"),
    "fit": ("fit", "Fit a policy on split `fit` and write it"),
    "certify": ("certify", "Certify a risk"),
    "refit": ("refit", "Fit a policy anew for recent rows"),
    "evaluate": ("run", "Show realised cost and accuracy of a policy"),
    "explain": ("explain", "Show what a policy does"),
    "curve": ("fit", "Fit methods at several budgets"),
    "report": ("report", "Write a page"),
    "compare": ("fit", "Compare and rank methods at equal realised cost"),
    "study": ("study", "Compare models at equal realised cost"),
    "tune": ("tune", "Tune a method's settings on split `fit`"),
    "calibration": ("explain", "Show how far confidence can be trusted"),
    "risk-coverage": ("explain", "Show what answers are worth if only the surest are given"),
    "plan": ("plan", "Choose cuts, kept exits and thresholds together"),
    "run": ("run", "Decide for new outputs"),
    "export": ("export", "Write a policy for other runtimes"),
    "verify": ("export", "Test an export on its golden vectors, or a certificate"),
    "watch": ("watch", "Watch a promised risk by new rows"),
    "simulate": ("simulate", "Play adaptive policies on a cache's streams"),
    "demo": ("fit", "Compare policies on a real cache, fit one, and write it"),
}
_STYLE: Any = {"pretty_exceptions_enable": False, "rich_markup_mode": None}
_STYLE["context_settings"] = {"help_option_names": ["-h", "--help"]}
#: What the parser says before what is allowed, and behind it.
_SAID = re.compile(r"^(Value error, )?(Input should be |'.*' is not )|, unable to .*$|\.$")


def _methods(incomplete: str) -> list[str]:
    """Complete a method's name, the last of several."""
    from policyopt._methods.registry import ROWS

    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in ROWS if name.startswith(last)]


def _splits(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete the name of a split of the cache that stands before."""
    from policyopt._cache.reader import read_manifest

    for place in map(Path, filter(None, (ctx.params.get("cache"), *ctx.args))):
        try:
            shards = read_manifest(place).shards
        except (PolicyOptError, OSError):  # not the cache
            continue
        return sorted({s.split for s in shards if s.split.startswith(incomplete)})
    return []


#: By name of a parameter: how a shell completes it.
_COMPLETED = {"method": _methods, "methods": _methods, "split": _splits, "test": _splits}


class Commands(TyperGroup):
    """Loads the module of the command that is called, and no other."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands: Any = dict.fromkeys(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, or None where there is none of that name."""
        if cmd_name in COMMANDS and self.commands[cmd_name] is None:
            with cli.loading():
                module = import_module(f"policyopt._cli.{COMMANDS[cmd_name][0]}")
            alone = typer.Typer(add_completion=False, **_STYLE)
            name = cmd_name.replace("-", "_") + "_" * iskeyword(cmd_name)
            function = getattr(module, name)
            for parameter, value in inspect.signature(function).parameters.items():
                value.default.autocompletion = _COMPLETED.get(parameter)
            alone.command(cmd_name)(function)
            self.commands[cmd_name] = typer.main.get_command(alone)
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find a command, or say which are meant."""
        if args[0] not in COMMANDS and not ctx.resilient_parsing:
            step = f"{meant(args[0], COMMANDS)}See `policyopt --help`."
            raise input_error("command", f"one of {', '.join(COMMANDS)}", args[0], step)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Complete from the table: none is loaded for that."""
        self.commands = {n: TyperCommand(n, help=f"{t}.") for n, (_, t) in COMMANDS.items()}
        return super().shell_complete(ctx, incomplete)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands from the table: none is loaded for that."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, f"{text}.") for name, (_, text) in COMMANDS.items()])


app = typer.Typer(
    name="policyopt",
    cls=Commands,
    help=(
        "Fit early-exit policies after training, from cached per-exit outputs. "
        "Exit codes: 0 done, 2 bad usage or input, 3 the budget cannot be met, 4 a check failed. "
        "Anywhere: --debug shows the traceback of an error; --plugin FILE_OR_MODULE runs a file of yours, or "
        "imports a module, that registers scores and methods of your own."
    ),
    no_args_is_help=True,
    **_STYLE,
)


def _version(wanted: bool) -> None:
    if wanted:
        from policyopt._optional import release

        say(f"policyopt {release()}")
        raise typer.Exit


@app.callback()
def _begin(
    version: bool = typer.Option(
        False, "--version", help="Show the version and exit.", callback=_version, is_eager=True
    ),
) -> None:
    """Take options that stand before the command's name; `main` takes those of any place."""


def main() -> None:
    """Run the command line and leave with its exit code."""
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show ends nothing
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        arguments = plug_in(arguments)
        sys.exit(app(args=arguments, prog_name="policyopt", standalone_mode=False))
    except BrokenPipeError:  # the reader of our output has seen enough (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as caught:
        if cli.interrupted:  # compiled code makes errors of its own of Ctrl-C
            raise
        error: Any = caught
        if isinstance(error, Usage):
            if not arguments:  # the help
                error.show()
            else:
                complain(f"error: {_usage(error, arguments)}")
            sys.exit(error.exit_code)
        if debug:
            complain(*traceback.format_exc().splitlines())
        known = isinstance(error, (PolicyOptError, OSError, MemoryError)) or cli.missing(error)
        fault = f"{type(error).__name__}: {error}. Please report it; --debug shows where."
        complain(f"error: {_message(error)}" if known else f"internal error: {fault}")
        sys.exit(getattr(error, "exit_code", 2) if known else 1)


def plug_in(arguments: list[str]) -> list[str]:
    """Load what ``--plugin`` names, which registers scores and methods; return the other arguments."""
    rest: list[str] = []
    given = iter(arguments)
    cli.plugins.clear()
    for argument in given:
        option, equals, value = argument.partition("=")
        if option != "--plugin":
            rest.append(argument)
            continue
        name = value if equals else next(given, "")
        cli.plugins.append(name)
        with cli.loading():
            _load(name)
    return rest


def _load(name: str) -> None:
    step = "E.g. --plugin my_score.py, or --plugin my_package.scores."
    file, load = Path(name), partial(import_module, name)
    if file.is_file():
        place = file.resolve()
        alias = f"plugin_{file.stem}_{zlib.crc32(os.fsencode(place)):08x}"
        if alias in sys.modules:
            return
        spec = spec_from_file_location(alias, place)
        if spec is None or spec.loader is None:
            raise input_error("--plugin", "a Python file", name, step)
        module = module_from_spec(spec)
        sys.modules[spec.name] = module
        sys.path.insert(0, str(place.parent))  # as Python does for a file that it runs
        load = partial(spec.loader.exec_module, module)
    elif name.endswith(".py") or not all(part.isidentifier() for part in name.split(".")):
        got = f"{name} (missing)" if name.endswith(".py") else name
        raise input_error("--plugin", "a Python file or a module", got, step)
    try:
        load()
    except PolicyOptError:
        raise
    except (Exception, SystemExit) as error:  # the user's own code: whatever it raises
        told = f"{type(error).__name__}: {error}"
        raise InputError(f"'--plugin {name}' cannot be loaded: {told}. Run it alone.") from error


def _usage(error: Any, arguments: list[str]) -> str:
    """Return what the parser refuses in the words of every other error."""
    line = " ".join(["policyopt", *[a for a in arguments if a in COMMANDS][:1]])
    step, text = f"See `{line} --help`.", str(error.message)
    option, param = getattr(error, "option_name", ""), getattr(error, "param", None)
    if param is not None:
        option = max(param.opts, key=len)
        option = option if option[0] == "-" else param.metavar or option
    came = {a.partition("=")[0]: a.partition("=")[2] for a in arguments} | dict(pairwise(arguments))
    got, allowed, known = came.get(option) or "none", "followed by a value", list[str]()
    if param is not None and hasattr(error, "param_type"):
        got, allowed = "none", f"given: {param.help[:1].lower()}{param.help[1:]}".rstrip(".")
    elif param is not None:
        allowed = _SAID.sub("", text)
        known = re.findall(r"'(\w+)'", allowed)
    elif hasattr(error, "possibilities"):
        known = [o for p in error.ctx.command.get_params(error.ctx) for o in p.opts if o[0] == "-"]
        option, allowed, got = "option", f"one of `{line}`", option
    elif more := re.search(r"extra argument.*\((.*)\)$", text):
        option, allowed, got = "arguments", f"those that `{line}` takes", f"{more[1]} besides"
    elif not option:
        return f"{text.rstrip('.')}. {step}"
    elif "does not take" in text:
        allowed = "given without a value"
    return message(option, allowed, got, meant(got, known) + step)


def _message(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        why = f"{error}. " if str(error) else ""
        return f"out of memory. {why}Give fewer rows, exits or budgets, or more memory."
    if isinstance(error, OSError) and error.errno in FULL:
        return str(refused(error.filename or "the output", error))
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"'{error.filename}': {error.strerror}. Check the path and its permissions."
    return cli.missing(error) or str(error)
