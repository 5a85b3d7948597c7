"""Triton's config.pbtxt: written from the specs in `tensors` and `gpu_models`, and read back for the load call."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2 as proto

from shortlist.devices.faiss_gpu import KINDS, TEMP_MEMORY_MIB, Placement
from shortlist.errors import ConfigError, ServerError
from shortlist.serving.gpu_models import STEPS, tensor_names
from shortlist.serving.tensors import CANDIDATES, CASCADE, ENSEMBLE, MAX_BATCH, STAGES, Model

DEVICE, ENGINES = "device", "engines"  # parameters of `cascade`: what it runs on, and where its plans lie
PLAN, PLAN_PLATFORM = "model.plan", "tensorrt_plan"
SPREAD, SPREAD_GPUS = "index_spread", "index_gpus"  # shards or replicas, and over which GPUs
REPAIRS = "repairs"  # parameter that the supervisor adds: a JSON object, how often it did what
GPU_MEMORY = "gpu_memory"  # bytes of each GPU that may be taken
GPU_INDEX, GPU_TEMP_MEMORY = "gpu_index", "gpu_temp_memory"  # a kind, and MiB of each GPU for searching
SPREADS = ("shards", "replicas")
_TYPES = {
    "BYTES": proto.TYPE_STRING,
    "FP16": proto.TYPE_FP16,
    "FP32": proto.TYPE_FP32,
    "INT8": proto.TYPE_INT8,
    "INT32": proto.TYPE_INT32,
    "INT64": proto.TYPE_INT64,
    "UINT8": proto.TYPE_UINT8,
}
_HEADER = "# Written by shortlist.serving.model_config from shortlist.serving.tensors: change those, not this file.\n"
_KINDS = {"cpu": proto.ModelInstanceGroup.KIND_CPU, "gpu": proto.ModelInstanceGroup.KIND_GPU}


@dataclass(frozen=True)
class Gpus:
    """The GPUs of a repository: each has all instances, or the first has them and the index is spread over all."""

    numbers: tuple[int, ...] = (0,)
    spread: str | None = None  # of the index: shards or replicas
    memory: float | None = None  # bytes that may be taken of each
    index: str = "auto"  # its kind; auto chooses by the catalogue's size
    temp_memory: int = TEMP_MEMORY_MIB  # MiB of each that FAISS may take to search

    @property
    def homes(self) -> tuple[int, ...]:
        """Those that have instances."""
        return self.numbers[:1] if self.spread else self.numbers


def parse_gpus(numbers: str = "0", spread: str | None = None) -> Gpus:
    """What `--gpus` and `--index-gpus` say. Raises ConfigError for what they do not allow."""
    parts = [part.strip() for part in numbers.split(",")]
    if not all(re.fullmatch("[0-9]{1,3}", part) for part in parts) or len({*map(int, parts)}) < len(parts):
        raise ConfigError(f"--gpus = {numbers!r}: numbers of GPUs from 0, each once, such as 0,1 are allowed")
    if spread not in (None, *SPREADS):
        raise ConfigError(f"--index-gpus = {spread!r}: {' or '.join(SPREADS)} is allowed")
    if spread and len(parts) < 2:
        raise ConfigError(f"--index-gpus = {spread!r}: allowed with several --gpus, such as 0,1; they are {numbers!r}")
    return Gpus(tuple(map(int, parts)), spread)


def check_index(gpus: Gpus) -> None:
    """Raise ConfigError for a kind of index that there is not, or that cannot be spread."""
    if gpus.index not in KINDS:
        raise ConfigError(f"--gpu-index = {gpus.index!r}: {', '.join(KINDS)} is allowed")
    if gpus.index == "cagra" and gpus.spread:
        raise ConfigError(
            f"--gpu-index = 'cagra': lies on one GPU, and --index-gpus = {gpus.spread!r} spreads it; choose another "
            "kind, or leave --index-gpus out"
        )


def config_pbtxt(model: Model, instances: int = 1, gpus: Gpus | None = None) -> str:
    """The text of a Python model's config.pbtxt, with `instances` on each of `gpus`, or of the CPU's ensemble."""
    config = _tensors(model)
    if model is ENSEMBLE:
        config.platform = "ensemble"
        config.ensemble_scheduling.CopyFrom(_ensemble_steps())
        return _text(config)
    config.backend = "python"
    kind, homes = (_KINDS["gpu"], gpus.homes) if gpus else (_KINDS["cpu"], ())
    config.instance_group.append(proto.ModelInstanceGroup(kind=kind, count=instances, gpus=homes))
    if model.batched:
        config.dynamic_batching.SetInParent()  # plain: queue policies stall requests after a burst
    if gpus:
        config.parameters[DEVICE].string_value = "gpu"
        config.parameters[ENGINES].string_value = ENGINES
        if gpus.memory is not None:
            config.parameters[GPU_MEMORY].string_value = f"{gpus.memory:.0f}"
        if gpus.index != "auto":
            config.parameters[GPU_INDEX].string_value = gpus.index
        if gpus.temp_memory != TEMP_MEMORY_MIB:
            config.parameters[GPU_TEMP_MEMORY].string_value = str(gpus.temp_memory)
        if gpus.spread:
            config.parameters[SPREAD].string_value = gpus.spread
            config.parameters[SPREAD_GPUS].string_value = ",".join(map(str, gpus.numbers))
    return _text(config)


def plan_pbtxt(model: Model, profiles: int, gpus: Gpus) -> str:
    """The text of a TensorRT plan's config.pbtxt; each instance may use all of the plan's optimisation profiles."""
    config = _tensors(model)
    config.platform = PLAN_PLATFORM
    config.default_model_filename = PLAN
    names = map(str, range(profiles))
    group = proto.ModelInstanceGroup(kind=_KINDS["gpu"], count=1, gpus=gpus.homes, profile=names)
    config.instance_group.append(group)
    return _text(config)


def gpu_ensemble_pbtxt(models: Mapping[str, Model]) -> str:
    """The text of the config.pbtxt of the ensemble over a GPU repository's other models."""
    config = _tensors(models[ENSEMBLE.name])
    config.platform = "ensemble"
    for name in STEPS:
        step = config.ensemble_scheduling.step.add(model_name=name, model_version=-1)
        inputs, outputs = tensor_names(models[name])
        step.input_map.update(inputs)
        step.output_map.update(outputs)
    return _text(config)


def read_config(path: Path) -> proto.ModelConfig:
    """A parsed config.pbtxt. Raises ServerError when the file cannot be read."""
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), proto.ModelConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise ServerError(f"{path}: cannot be read as a Triton model configuration: {error}") from error


def device_of(path: Path) -> str:
    """What a config.pbtxt says that its model runs on: `cpu` or `gpu`."""
    parameters = read_config(path).parameters
    return str(parameters[DEVICE].string_value) if DEVICE in parameters else "cpu"


def gpus_of(config: proto.ModelConfig) -> Gpus:
    """What `cascade`'s configuration says of GPUs."""
    said = {name: value.string_value for name, value in config.parameters.items()}
    numbers = map(int, said[SPREAD_GPUS].split(",")) if SPREAD in said else config.instance_group[0].gpus
    memory = float(said[GPU_MEMORY]) if GPU_MEMORY in said else None
    index, temporary = said.get(GPU_INDEX, "auto"), int(said.get(GPU_TEMP_MEMORY, TEMP_MEMORY_MIB))
    return Gpus(tuple(numbers) or (0,), said.get(SPREAD), memory, index, temporary)


def placement(args: Mapping[str, str]) -> Placement:
    """What Triton tells an instance: its own GPU, before the others over which its index is spread, if it is."""
    own = int(args["model_instance_device_id"]) if args["model_instance_kind"] == "GPU" else 0
    gpus = gpus_of(json_format.Parse(args["model_config"], proto.ModelConfig(), ignore_unknown_fields=True))
    others = [gpu for gpu in gpus.numbers if gpus.spread and gpu != own]
    spread: Any = gpus.spread or "shards"
    return Placement((own, *others), spread, gpus.index, gpus.temp_memory)


def repairs_of(args: Mapping[str, str]) -> dict[str, int]:
    """How often the supervisor did what, as it told this instance when it loaded it."""
    parameters = json.loads(args["model_config"]).get("parameters", {})
    return dict(json.loads(parameters.get(REPAIRS, {}).get("string_value", "{}")))


def config_json(path: Path, instances: int | None, wanted: str | None = None, device: str = "cpu") -> str:
    """A config.pbtxt as the JSON that Triton's load call takes, with `instances` in place of its own number.

    `wanted` is what `cascade` is told to run on instead of its own parameter, and `device` what that comes to here.
    Raises ServerError when the file cannot be read.
    """
    config = read_config(path)
    for group in config.instance_group:
        if instances is not None and config.platform != PLAN_PLATFORM:
            group.count = instances
        if wanted is not None and config.name == CASCADE.name:
            group.kind = _KINDS[device]
            group.gpus[:] = gpus_of(config).homes if device == "gpu" else ()
    if wanted is not None and config.name == CASCADE.name:
        config.parameters[DEVICE].string_value = wanted
    return str(json_format.MessageToJson(config, preserving_proto_field_name=True))


def _tensors(model: Model) -> proto.ModelConfig:
    config = proto.ModelConfig(name=model.name, max_batch_size=MAX_BATCH if model.batched else 0)
    for tensor in model.inputs:
        config.input.append(
            proto.ModelInput(
                name=tensor.name,
                data_type=_TYPES[tensor.dtype],
                dims=tensor.shape,
                allow_ragged_batch=model.batched and -1 in tensor.shape and model is not ENSEMBLE,
            )
        )
    for tensor in model.outputs:
        config.output.append(proto.ModelOutput(name=tensor.name, data_type=_TYPES[tensor.dtype], dims=tensor.shape))
    return config


def _text(config: proto.ModelConfig) -> str:
    return f"{_HEADER}{text_format.MessageToString(config)}"


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
