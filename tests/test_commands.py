"""What all commands have in common."""

from collections.abc import Callable, Sequence

import pytest

from dvfl_bench.cli import main as bench
from dvfl_export.cli import main as export
from dvfl_export.eval_cli import main as evaluate
from dvfl_models.cli import main as train
from dvfl_models.crossval import main as crossval
from dvfl_runtime.cli import main as recognize


@pytest.mark.parametrize("main", [bench, crossval, evaluate, export, recognize, train])
def test_a_wrong_argument_is_one_line(
    main: Callable[[Sequence[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--nonsense", "1"])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "error: " in line
