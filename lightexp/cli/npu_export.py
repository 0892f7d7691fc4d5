"""`lightexp export --vela TARGET`: a run's model, compiled for an Arm Ethos-U NPU by Vela."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightexp.core.errors import BadInput, suggest_nearest

if TYPE_CHECKING:
    from lightexp.core.record import Record
    from lightexp.metrics.npu import Npu


def compile_for_target(record: Record, model: Path, name: str) -> tuple[bytes, str]:
    """Compile a run's model for an NPU.

    Args:
        record: The run's record, whose config may describe the target.
        model: The run's `.tflite`.
        name: The target: one of the run's `deploy.npus`, or a choice of the group `deploy`.

    Returns:
        The compiled file, and a line that says what it is.

    Raises:
        BadInput: If there is no such target, or the NPU would compute no operator of the model.
    """
    from lightexp.backend import vela
    from lightexp.metrics.npu import explain_refusals, make_compiler_target

    measurement = _find_target(record, name)
    target = make_compiler_target(measurement.targets[name])
    estimate = vela.estimate(model, target)
    on_npu, on_cpu = (int(estimate.metrics[key]) for key in ("npu_ops", "cpu_ops"))
    if not on_npu:
        raise BadInput(
            f"--vela={name}: the NPU computes no operator of {model} ({explain_refusals(estimate.refused)}). "
            "Run the pipeline again with quantize.scheme=int8 and io=integer."
        )
    accelerator = measurement.targets[name]["accelerator"]
    line = (
        f"for {name} alone ({accelerator}, {measurement.compiler}): {on_npu} operators on the NPU, {on_cpu} on the CPU"
    )
    return vela.compile_file(model, target), line


def _find_target(record: Record, name: str) -> Npu:
    """Return the measurement with only the target of a name."""
    from omegaconf import OmegaConf

    from lightexp.core.board_fit import find_targets
    from lightexp.core.config import construct
    from lightexp.metrics.npu import Npu
    from lightexp.runner.compose import compose_config
    from lightexp.runner.config_groups import ConfigGroups

    node = find_targets(record.config, "npus").get(name)
    if node is None:
        choices = ConfigGroups().list_choices("deploy")
        if name not in choices:
            raise BadInput(f"--vela={name}: there is no such target, {suggest_nearest(name, choices)}")
        config: Any = OmegaConf.to_container(compose_config([f"deploy=[{name}]"]), resolve=True)
        node = find_targets(config, "npus").get(name)
    if node is None:
        raise BadInput(f"--vela={name}: {name} is a microcontroller. Name an NPU, such as ethos_u55_128.")
    return construct(Npu, {"targets": {name: node}}, "deploy.npus")
