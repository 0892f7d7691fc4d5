"""Write the `.tflite` files of this folder: three PyTorch networks, converted by litert-torch and by onnx2tf.

Run in an environment with torch, litert-torch and onnx, and with the command `onnx2tf` on the path; made with torch
2.14.1, litert-torch 0.10.0, onnx 1.23.2 and onnx2tf 1.29.24. The tests need none of them.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import litert_torch
import torch
from torch import nn
from torch.nn import functional

FOLDER = Path(__file__).parent
SHAPE = (1, 2, 8, 8)  # with 3 channels onnx2tf downloads images for its own checks


class Block(nn.Module):
    """A residual block."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.short = nn.Sequential()
        if stride > 1:
            self.short = nn.Sequential(nn.Conv2d(channels, filters, 1, stride, bias=False), nn.BatchNorm2d(filters))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + self.short(x))


class Residual(nn.Module):
    """A residual network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.a, self.b = Block(4, 4, 1), Block(4, 6, 2)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.b(self.a(torch.relu(self.stem(x))))
        return self.head(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


class Depthwise(nn.Module):
    """A network of depthwise and grouped convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.dw = nn.Conv2d(2, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 1, 1, groups=6)
        self.pw, self.grouped = nn.Conv2d(6, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.head = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.leaky_relu(self.dw(functional.relu6(self.stem(x))), 0.1)
        x = functional.max_pool2d(functional.hardswish(self.pw(x)), 2)
        x = functional.gelu(self.grouped(x))
        return torch.softmax(self.head(x.flatten(1)), 1)


class Mlp(nn.Module):
    """Dense layers."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Flatten(), nn.Linear(128, 5), nn.ReLU(), nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4)]
        self.net = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


def make_model(kind: type[nn.Module]) -> nn.Module:
    """Return a network with random weights and statistics."""
    torch.manual_seed(0)
    model = kind()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def convert_by_onnx2tf(model: nn.Module, name: str, variant: str) -> None:
    """Write one of the files that onnx2tf makes of a network."""
    with TemporaryDirectory() as folder:
        onnx = Path(folder) / f"{name}.onnx"
        torch.onnx.export(model, (torch.zeros(SHAPE),), onnx, dynamo=False, input_names=["input"])
        subprocess.run(["onnx2tf", "-i", onnx, "-o", folder], check=True)
        shutil.copy(Path(folder) / f"{name}_{variant}.tflite", FOLDER / f"onnx2tf_{name}.tflite")


def main() -> None:
    """Write all files."""
    residual, depthwise, mlp = (make_model(kind) for kind in (Residual, Depthwise, Mlp))
    example = (torch.zeros(SHAPE),)
    litert_torch.convert(residual, example).export(str(FOLDER / "litert_torch_residual.tflite"))
    litert_torch.convert(mlp, example).export(str(FOLDER / "litert_torch_mlp.tflite"))
    channels_last = litert_torch.to_channel_last_io(depthwise, args=[0])
    converted = litert_torch.convert(channels_last, (torch.zeros(1, 8, 8, 2),))
    converted.export(str(FOLDER / "litert_torch_depthwise.tflite"))
    convert_by_onnx2tf(residual, "residual", "float32")
    convert_by_onnx2tf(depthwise, "depthwise", "float32")
    convert_by_onnx2tf(mlp, "mlp", "float16")


if __name__ == "__main__":
    main()
