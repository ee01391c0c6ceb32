"""bfloat16 against float32: what is compared, and where it cannot be."""

import json
from pathlib import Path

import pytest
from bf16 import needs_bf16, on_a_cpu_without_bf16

from dvfl_bench.comparisons import bf16


@pytest.mark.slow  # exports nano
@needs_bf16
def test_both_networks_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bf16, "NANO_SIZE", 32)
    monkeypatch.setattr(bf16, "NANO_CLIPS", 2)
    out = tmp_path / "r.json"
    assert bf16.main(["--rounds", "2", "--rendered", "5", "--json", str(out)]) == 0
    networks = json.loads(out.read_text())["networks"]
    assert list(networks) == ["nano, random weights", "bundled"]
    for network, rounds in zip(networks.values(), (2, 20), strict=True):
        assert network["fp32"]["n"] == network["bf16"]["n"] == rounds
        assert 0 < network["rendered"]["max_difference"] < 0.1
    assert "accuracy" not in networks["nano, random weights"]["rendered"]
    assert set(networks["bundled"]["rendered"]["accuracy"]) == {"fp32", "bf16"}


def test_without_bf16_it_is_one_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    on_a_cpu_without_bf16(monkeypatch)
    assert bf16.main([]) == 2
    assert caplog.records[-1].getMessage().startswith("error: precision 'bf16' needs a CPU with")
