"""What makes a model faster or smaller."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from unit.engine.company import Alone, variety
from unit.engine.recorder import CPU, TickedEngine, network_of, txt2img

from sd_worker.engine.models.model_loading import ModelSource
from sd_worker.engine.models.tuning import AttentionBackend, Tuning, choose_attention
from sd_worker.engine.row_caps import RowCaps
from sd_worker.engine.tasks import Finished


@pytest.mark.parametrize("channels_last", [False, True])
def test_channels_last_is_the_format_of_unet_and_vae_and_gives_nearly_the_same(
    model_dir: Path, source: ModelSource, channels_last: bool
) -> None:
    plain = TickedEngine(source, "sd1")
    tuned = TickedEngine(ModelSource(model_dir, dtype=torch.float32, tuning=Tuning(channels_last=channels_last)), "sd1")
    for part in ("unet", "vae"):
        weights = [weight for weight in network_of(tuned.models, "sd1", part).parameters() if weight.ndim == 4]
        # Kernels of one pixel are in both formats.
        assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights) == channels_last
    tasks = variety("sd1", ["ddim"])

    Alone(plain).assert_within(1, tasks, tuned.run(tasks))
    plain.stop()
    tuned.stop()


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.fx.GraphModule]]:
    """What is compiled, by a compiler that leaves it as it is and needs none of C++."""
    compiled: list[torch.fx.GraphModule] = []

    def count(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        compiled.append(graph)
        return graph.forward

    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda module, **options: compile_module(module, backend=count, **options)
    )
    torch.compiler.reset()
    yield compiled
    torch.compiler.reset()


def test_a_compiled_network_has_one_graph_for_each_size_and_bucket_and_those_of_the_first_size_at_once(
    model_dir: Path, graphs: list[torch.fx.GraphModule]
) -> None:
    compiling = ModelSource(model_dir, dtype=torch.float32, tuning=Tuning(compiles=True))
    engine = TickedEngine(compiling, "sd1", row_caps=RowCaps(CPU, fixed=6, in_buckets=True))

    def run(num_tasks: int, **parameters: Any) -> int:
        """How many graphs more there are after so many tasks together."""
        before = len(graphs)
        given: dict[str, Any] = {"steps": 1, "scheduler": "ddim"} | parameters
        tasks = [txt2img(str(number), **given) for number in range(num_tasks)]
        assert all(isinstance(outcome, Finished) for outcome in engine.run(tasks, per_join=num_tasks).values())
        return len(graphs) - before

    # Of 1, 2, 4 and 6 rows.
    assert run(1, guidance=2.0, scheduler="euler") == 4
    for num_tasks in (1, 2, 3, 4):
        assert run(num_tasks) == 0
    assert run(1, guidance=1.0) == 0
    assert run(1, scheduler="euler") == 0
    assert run(5, guidance=1.0, scheduler="dpmpp_2m") == 0
    # More than the 8 that torch compiles before it runs the rest as it is.
    for width in (72, 80):
        assert run(1, width=width, guidance=1.0) == 1
        assert [run(num_tasks, width=width) for num_tasks in (1, 2, 3)] == [1, 1, 1]
    engine.stop()


@pytest.mark.parametrize("tiles_vae", [False, True])
def test_a_large_picture_is_decoded_in_tiles_where_asked(model_dir: Path, tiles_vae: bool) -> None:
    engine = TickedEngine(ModelSource(model_dir, dtype=torch.float32, tuning=Tuning(tiles_vae=tiles_vae)), "sd1")
    decoded: list[tuple[int, ...]] = []
    decoder = network_of(engine.models, "sd1", "vae").get_submodule("decoder")
    decoder.register_forward_pre_hook(lambda _, arguments: decoded.append(tuple(arguments[0].shape[2:])))

    engine.finish(txt2img(steps=1, width=192, height=64))

    assert (decoded == [(8, 24)]) != tiles_vae
    assert (len(decoded) > 1) == tiles_vae
    engine.stop()


#: Of torch's implementations of attention, how to ask for each and to set it. Untyped.
ATTENTION: Any = torch.backends.cuda
NAMES = ("flash_sdp", "mem_efficient_sdp", "cudnn_sdp", "math_sdp")


def enabled_attention() -> tuple[bool, ...]:
    return tuple(getattr(ATTENTION, f"{name}_enabled")() for name in NAMES)


@pytest.fixture
def attention() -> Iterator[None]:
    """The process's attention as it was, afterwards."""
    before = enabled_attention()
    yield
    for name, was_enabled in zip(NAMES, before, strict=True):
        getattr(ATTENTION, f"enable_{name}")(was_enabled)


@pytest.mark.usefixtures("attention")
@pytest.mark.parametrize(
    ("backend", "enabled"),
    [
        ("auto", (True, True, True, True)),
        ("flash", (True, False, False, True)),
        ("efficient", (False, True, False, True)),
        ("cudnn", (False, False, True, True)),
        ("math", (False, False, False, True)),
    ],
)
def test_attention_is_restricted_to_one_and_what_does_the_rest(
    backend: AttentionBackend, enabled: tuple[bool, ...]
) -> None:
    choose_attention(backend)

    assert enabled_attention() == enabled
