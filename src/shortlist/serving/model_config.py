"""Triton's config.pbtxt: written from the specs in `tensors`, and read back for the load call."""

from __future__ import annotations

from pathlib import Path

from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2 as proto

from shortlist.errors import ServerError
from shortlist.serving.tensors import CANDIDATES, ENSEMBLE, MAX_BATCH, STAGES, Model

_TYPES = {"BYTES": proto.TYPE_STRING, "FP32": proto.TYPE_FP32, "INT32": proto.TYPE_INT32}
_HEADER = "# Written by shortlist.serving.model_config from shortlist.serving.tensors: change those, not this file.\n"


def config_pbtxt(model: Model, instances: int = 1) -> str:
    """The text of a model's config.pbtxt."""
    config = proto.ModelConfig(name=model.name, max_batch_size=MAX_BATCH)
    for tensor in model.inputs:
        config.input.append(
            proto.ModelInput(
                name=tensor.name,
                data_type=_TYPES[tensor.dtype],
                dims=tensor.shape,
                allow_ragged_batch=-1 in tensor.shape and model is not ENSEMBLE,
            )
        )
    for tensor in model.outputs:
        config.output.append(proto.ModelOutput(name=tensor.name, data_type=_TYPES[tensor.dtype], dims=tensor.shape))
    if model is ENSEMBLE:
        config.platform = "ensemble"
        config.ensemble_scheduling.CopyFrom(_ensemble_steps())
    else:
        config.backend = "python"
        config.instance_group.append(proto.ModelInstanceGroup(kind=proto.ModelInstanceGroup.KIND_CPU, count=instances))
        config.dynamic_batching.SetInParent()  # plain: queue policies stall requests after a burst
    return f"{_HEADER}{text_format.MessageToString(config)}"


def config_json(path: Path, instances: int | None) -> str:
    """A config.pbtxt as the JSON that Triton's load call takes, with `instances` in place of its own number.

    Raises ServerError when the file cannot be read.
    """
    try:
        config = text_format.Parse(path.read_text(encoding="utf-8"), proto.ModelConfig())
    except (OSError, text_format.ParseError) as error:
        raise ServerError(f"{path}: cannot be read as a Triton model configuration: {error}") from error
    if instances is not None:
        for group in config.instance_group:
            group.count = instances
    return str(json_format.MessageToJson(config, preserving_proto_field_name=True))


def _ensemble_steps() -> proto.ModelEnsembling:
    """Each stage reads the person and the candidates of the stage before it."""
    steps = proto.ModelEnsembling()
    before = ""
    for stage in STAGES:
        step = steps.step.add(model_name=stage.name, model_version=-1)
        for tensor in stage.inputs:
            step.input_map[tensor.name] = f"{before}_{tensor.name}" if tensor in CANDIDATES else tensor.name
        for tensor in stage.outputs:
            step.output_map[tensor.name] = f"{stage.name}_{tensor.name}" if tensor in CANDIDATES else tensor.name
        before = stage.name
    return steps
