"""Arrays of other libraries come in without a copy and go back as what they were; what cannot, says so."""

import sys

import numpy as np
import pytest
import torch

from shortlist.kernels.arrays import adopt, give_back, import_cupy, is_cupy


class OnDevice:
    """Something with DLPack that claims to live on a device."""

    def __init__(self, device: int) -> None:
        self.device = device

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 3


def test_a_numpy_array_stays_itself() -> None:
    array = np.zeros(3, np.float32)
    assert adopt(array) is array


def test_a_torch_tensor_comes_in_without_a_copy() -> None:
    tensor = torch.zeros(3)
    array = adopt(tensor)
    tensor[1] = 7
    assert array.tolist() == [0, 7, 0]


def test_the_result_goes_back_as_the_library_it_came_from() -> None:
    result = np.arange(3, dtype=np.int32)
    assert torch.equal(give_back(result, torch.zeros(1)), torch.from_numpy(result))


def test_a_numpy_result_goes_back_as_it_is() -> None:
    result = np.arange(3)
    assert give_back(result, np.zeros(1)) is result


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        ([1.0], "list is no array"),
        (OnDevice(8), r"device type 8 \(number 3\): only the CPU and CUDA"),
        (torch.zeros(2, dtype=torch.bfloat16), "Tensor of torch.bfloat16"),
        (torch.zeros(2, requires_grad=True), "Tensor of torch.float32.*gradient"),
    ],
    ids=["list", "device", "dtype", "gradient"],
)
def test_what_cannot_be_taken_is_named(thing: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        adopt(thing)


def test_numpy_is_not_cupy() -> None:
    assert not is_cupy(np.zeros(1))


def test_without_cupy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install .*\[gpu\]'"):
        import_cupy()
