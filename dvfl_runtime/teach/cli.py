"""dvfl-teach: your own actions on this device, from a few recorded clips of each."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from dvfl_runtime.arguments import Parser, run_command
from dvfl_runtime.teach import fit_cli, record_cli
from dvfl_runtime.version import __version__

PROG = "dvfl-teach"
DESCRIPTION = "Teach a model your own actions, from about twelve short clips of each."
EXAMPLES = """\
examples:
  dvfl-teach record 0 clips/wave                 twelve clips of an action from a camera
  dvfl-teach fit clips -o mine.onnx              clips/wave/anna_1.mp4, clips/clap/ben_1.mp4, ...
  dvfl-recognize --model mine.onnx 0             then recognise them

`dvfl-teach COMMAND --help` tells the options of a command.
"""


def make_parser() -> Parser:
    """Return the parser of the command, with a parser for each subcommand."""
    parser = Parser(
        prog=PROG,
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{PROG} {__version__}")
    commands = parser.add_subparsers(metavar="record|fit", required=True)
    for command in (record_cli, fit_cli):
        command.add_command(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = make_parser().parse_args(argv)
    return run_command(args.parser, lambda requests: int(args.work(args, requests)))


if __name__ == "__main__":
    sys.exit(main())
