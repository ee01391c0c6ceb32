"""dvfl-recognize: which actions, and when, in a video or in front of a camera."""

from __future__ import annotations

import argparse
import math
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from socket import socket
from typing import TYPE_CHECKING

from dvfl_runtime.app.options import PROG, make_parser
from dvfl_runtime.app.outputs import open_outputs
from dvfl_runtime.app.plan import Plan, make_plan
from dvfl_runtime.app.recognition import Predict, Recognition
from dvfl_runtime.app.watchdog import wanted_watchdog
from dvfl_runtime.arguments import run_command, say
from dvfl_runtime.errors import SourceError
from dvfl_runtime.interrupts import Interrupted, Requests
from dvfl_runtime.recognizer import DEMO_CLIP, Recognizer
from dvfl_runtime.serve.address import TOKEN_VARIABLE, Address, listen
from dvfl_runtime.streams.smoothing import Segmenter, Smoothing

if TYPE_CHECKING:
    from dvfl_runtime.serve.server import PageServer


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = make_parser()
    args = parser.parse_args(argv)

    def work(requests: Requests) -> int:
        with ExitStack() as new_folders, ExitStack() as lasting:
            plan = make_plan(args, DEMO_CLIP, new_folders)
            status = _recognise(args, plan, lasting, requests)
            requests.release()
            if args.serve and requests.number is None:
                _keep_page_open(args.linger)
        return status

    return run_command(parser, work)


def _recognise(args: argparse.Namespace, plan: Plan, lasting: ExitStack, requests: Requests) -> int:
    """Recognise all sources, complete the outputs, and return the exit status.

    Args:
        args: the options.
        plan: made of them.
        lasting: closes the page and the watchdog, which outlive the other outputs.
        requests: to end.
    """
    token = args.token or os.environ.get(TOKEN_VARIABLE) or None
    # listens before the model is loaded, so that an error comes at once
    listening = listen(args.serve, token) if args.serve else None
    if listening is not None:
        lasting.enter_context(listening[0])
    watchdog = wanted_watchdog()
    if watchdog is not None:
        lasting.callback(watchdog.close)
    total = len(plan.tasks)
    with ExitStack() as stack:
        recognizer = stack.enter_context(
            Recognizer(
                args.model,
                engine=args.engine,
                device=args.device,
                num_threads=args.threads,
                precision=args.precision,
                focus=args.focus,
            )
        )
        if args.demo:
            _say_what_runs(recognizer)
        outputs = open_outputs(args, plan, recognizer.labels, stack, _report)
        outputs.watchdog = watchdog
        if listening is not None:
            outputs.page = _serve_page(recognizer, token, *listening)
            lasting.callback(outputs.page.close)
        recognition = Recognition(
            _predictor(args, plan, recognizer),
            partial(Segmenter, recognizer.labels, _smoothing(args)),
            outputs,
            _report,
            fps=args.fps,
        )
        try:
            groups = [plan.tasks] if plan.together else [[task] for task in plan.tasks]
            recognition.recognise(groups)
            requests.hold()
        except Interrupted:
            pass  # the results so far are completed and kept
        finally:
            requests.hold()
            recognition.finish()
        if recognition.failed == total:
            raise SourceError(f"{total} of {total} sources failed")
    if recognition.failed:
        _report(f"{recognition.failed} of {total} sources failed")
    return 1 if recognition.failed else 0


def _predictor(args: argparse.Namespace, plan: Plan, recognizer: Recognizer) -> Predict:
    """Return the function that yields the predictions of sources."""
    if args.whole:
        views = args.views or 1
        return lambda sources, *_: (
            recognizer.classify(one, views=views, top_k=args.top_k) for one in sources
        )
    return lambda sources, regions, on_empty, on_end: recognizer.stream(
        sources,
        window_s=args.window_s,
        hop_s=args.hop_s,
        top_k=args.top_k,
        regions=regions,
        max_regions=plan.max_regions,
        on_empty=on_empty,
        on_end=on_end,
    )


def _smoothing(args: argparse.Namespace) -> Smoothing:
    return Smoothing(enter=args.enter, leave=min(args.enter, Smoothing.leave))


def _serve_page(
    recognizer: Recognizer, token: str | None, listening: socket, address: Address
) -> PageServer:
    """Begin to serve the page and tell its address."""
    from dvfl_runtime.serve.server import PageServer  # asyncio takes a while, and few need it

    info, labels = recognizer.info, recognizer.labels
    page = PageServer(listening, address.host, token, info=info, labels=labels)
    secret = "?token=..." if token else ""  # the token itself is not for logs
    say(f"{PROG}: serving at http://{address}/{secret}\n")
    return page


def _keep_page_open(linger_s: float | None) -> None:
    """Keep the page open until the time is over or a signal arrives."""
    if linger_s is None:
        on_terminal = all(stream and stream.isatty() for stream in (sys.stdout, sys.stderr))
        linger_s = math.inf if on_terminal else 0.0
    if linger_s > 0:
        until = "until Ctrl-C" if linger_s == math.inf else f"for {linger_s:g} s, or until Ctrl-C"
        say(f"{PROG}: all sources have ended; the page stays {until}\n")
        threading.Event().wait(min(linger_s, threading.TIMEOUT_MAX))


def _say_what_runs(recognizer: Recognizer) -> None:
    info = recognizer.info
    say(
        f"{PROG}: model {info.name} {info.precision} on {info.engine} "
        f"{info.versions[info.engine]}, {info.provider}, {info.device}"
        f"{', fused kernels' if info.fused_ops else ''}\n"
    )


def _report(error: str) -> None:
    say(f"{PROG}: error: {' '.join(error.split())}\n")


if __name__ == "__main__":
    sys.exit(main())
