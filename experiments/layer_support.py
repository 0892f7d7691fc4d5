"""Write the guide `lightexp/guides/layers.md`: what each stage does to each kind of layer, by real runs on tiny nets.

Each stage is planned and run on a net of all kinds of one sort of data. If the plan refuses it, each kind is planned
alone, and those that are accepted are run in one net; if that is refused or fails, each of its kinds is run alone.

    python experiments/layer_support.py [STAGE ...]
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lightexp.backend.session import import_keras, reset_graph, start_tensorflow
from lightexp.core.errors import BadInput, LightexpError
from lightexp.core.fingerprint import compute_key
from lightexp.runner.compose import compose_settings
from lightexp.runner.preview import preview_plan
from lightexp.runner.progress import SilentReporter
from lightexp.runner.run import Runner

GUIDE = Path(__file__).resolve().parents[1] / "lightexp/guides/layers.md"
ROWS = 25  # of the embedding
SHAPES = {"image": (8, 8, 3), "series": (3, 3), "tokens": (4,)}
STAGES = {
    "prune": ["prune"],
    "prune_channels": ["prune_channels"],
    "factorize": ["factorize"],
    "cluster": ["cluster", "k=6"],
    "qat": ["qat"],
    "quantize int8": ["quantize", "scheme=int8"],
    "quantize int4": ["quantize", "scheme=dynamic", "bits=4"],
    "quantize weight_only": ["quantize", "scheme=weight_only"],
    "encode": ["encode"],
    "sensitivity": ["sensitivity"],
    "rate": ["rate", "from_scratch=false"],
    "distill": ["distill"],
}
TRAINING = ("prune", "prune_channels", "factorize", "cluster", "rate", "qat", "distill")
_NOTHING_TO_DO = ("left alone", "follows the layers", "trained as usual", "all ", "stays as it is")
_FLOAT = ("float32", "in the file, but trained in float32")


def list_kinds() -> dict[str, dict[str, Callable[[str], Any]]]:
    """Return the constructors of the layers, which take the layer's name, by sort of data and kind.

    Kinds that need all channels they read come first, so that `prune_channels` can narrow the others.
    """
    kl = import_keras().layers
    image = {
        "Normalization": lambda name: kl.Normalization(mean=[0.0] * 8, variance=[1.0] * 8, name=name),
        "Rescaling by channel": lambda name: kl.Rescaling([0.5] * 8, [0.1] * 8, name=name),
        "Conv2D, grouped": lambda name: kl.Conv2D(8, 3, groups=2, padding="same", name=name),
        "LayerNormalization": lambda name: kl.LayerNormalization(name=name),
        "Conv2D": lambda name: kl.Conv2D(8, 3, padding="same", activation="relu", name=name),
        "Conv2D, dilated": lambda name: kl.Conv2D(8, 3, dilation_rate=2, padding="same", name=name),
        "PReLU": lambda name: kl.PReLU(shared_axes=[1, 2], name=name),
        "DepthwiseConv2D": lambda name: kl.DepthwiseConv2D(3, padding="same", activation="relu", name=name),
        "DepthwiseConv2D, dilated": lambda name: kl.DepthwiseConv2D(3, dilation_rate=2, padding="same", name=name),
        "LeakyReLU": lambda name: kl.LeakyReLU(name=name),
        "SeparableConv2D": lambda name: kl.SeparableConv2D(8, 3, padding="same", activation="relu", name=name),
        "Conv2DTranspose": lambda name: kl.Conv2DTranspose(8, 3, strides=2, padding="same", name=name),
        "ReLU with a slope": lambda name: kl.ReLU(negative_slope=0.1, name=name),
        "Dense on a feature map": lambda name: kl.Dense(8, activation="relu", name=name),
        "UpSampling2D": lambda name: kl.UpSampling2D(name=name),
        "GlobalMaxPooling2D": lambda name: kl.GlobalMaxPooling2D(keepdims=True, name=name),
    }
    series = {
        "LSTM": lambda name: kl.LSTM(6, return_sequences=True, name=name),
        "GRU": lambda name: kl.GRU(6, return_sequences=True, name=name),
        "GRU, reset_after=False": lambda name: kl.GRU(6, reset_after=False, return_sequences=True, name=name),
        "SimpleRNN": lambda name: kl.SimpleRNN(6, return_sequences=True, name=name),
        "Bidirectional": lambda name: kl.Bidirectional(kl.LSTM(5, return_sequences=True), name=name),
        "Conv1D": lambda name: kl.Conv1D(8, 3, padding="same", activation="relu", name=name),
        "SeparableConv1D": lambda name: kl.SeparableConv1D(8, 3, padding="same", activation="relu", name=name),
        "GlobalMaxPooling1D": lambda name: kl.GlobalMaxPooling1D(keepdims=True, name=name),
    }
    return {"image": image, "series": series, "tokens": {"Embedding": lambda name: kl.Embedding(ROWS, 8, name=name)}}


def name_layer(kind: str) -> str:
    """Return the name of the layer of a kind."""
    return kind.replace(",", "").replace("=", "_").replace(" ", "_").lower()


@dataclass
class SupportTable:
    """What each stage does to each kind of layer.

    Attributes:
        folder: Folder of the nets, the data and the outputs.
        kinds: See `list_kinds`.
        cells: Text by stage and kind.
        reasons: Reasons of refusals by text of the reason, in the order they occurred, with the cells they belong to.
        failures: Runs that failed after the plan had accepted them.
    """

    folder: Path
    cells: dict[tuple[str, str], str] = field(default_factory=dict)
    reasons: dict[str, list[str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    kinds: dict[str, dict[str, Callable[[str], Any]]] = field(default_factory=list_kinds)

    def __post_init__(self) -> None:
        self._runner = Runner(SilentReporter())
        rng, y = np.random.default_rng(0), np.arange(48) % 4
        for sort, shape in SHAPES.items():
            x = rng.normal(size=(48, *shape)).astype(np.float32)
            if sort == "tokens":
                x = rng.integers(0, ROWS, (48, *shape)).astype(np.int32)
                x[0, 0] = ROWS - 1
            np.savez(self.folder / f"{sort}.npz", x=x, y=y)

    def write_net(self, sort: str, kinds: Sequence[str]) -> Path:
        """Write a net that has a layer of each kind, before a head that every stage takes, and return its file."""
        file = self.folder / f"{sort}_{compute_key(list(kinds))[:8]}.keras"
        if file.exists():
            return file
        reset_graph(0)
        kl = import_keras().layers
        net = import_keras().Sequential([kl.Input(SHAPES[sort])])
        if sort == "image":
            net.add(kl.Conv2D(8, 3, padding="same", activation="relu", name="first"))
        for kind in kinds:
            net.add(self.kinds[sort][kind](name_layer(kind)))
        net.add(kl.Flatten(name="flat"))
        net.add(kl.Dense(8, activation="relu", name="hidden"))
        net.add(kl.Dense(4, name="logits"))
        net.save(file)
        return file

    def list_overrides(self, stage: str, sort: str, file: Path) -> list[str]:
        """Return the overrides of a run of one stage on a net."""
        config, *values = STAGES[stage]
        overrides = [
            *("dataset=arrays", f"dataset.path={self.folder / sort}.npz", "model=from_file", f"model.path={file}"),
            *("pipeline=control", "~stage@pipeline.stages.train", f"+stage@pipeline.stages.it={config}"),
            *("pipeline.order=[it]", f"paths.outputs={self.folder}/outputs", "tracking=none", "measure=quick"),
            *(f"pipeline.stages.it.{value}" for value in values),
        ]
        if stage in TRAINING:
            overrides += ["pipeline.stages.it.epochs=1", "pipeline.stages.it.batch_size=16"]
        if stage == "distill":  # a file has no narrower sibling: the student is the same net with new weights
            student = "pipeline.stages.it.student"
            overrides += [f"model@{student}=from_file", f"{student}.path={file}"]
        if sort == "tokens":
            overrides.append("dataset.scaling.range=[0,255]")
        return overrides

    def fill(self, stage: str) -> None:
        """Plan and run a stage on every kind of layer."""
        for sort, kinds in self.kinds.items():
            accepted = list(kinds)
            if not self._plan(stage, sort, accepted):
                accepted = [kind for kind in kinds if self._plan(stage, sort, [kind])]
            together = self._plan(stage, sort, accepted) if accepted else True
            if together and (not accepted or not self._run(stage, sort, accepted)):
                continue
            for kind in accepted:
                if self._run(stage, sort, [kind]):
                    self.cells[stage, kind] = "**fails**"

    def _plan(self, stage: str, sort: str, kinds: Sequence[str]) -> bool:
        """Plan a stage on a net of some kinds; note what it does to them, and return whether it is accepted."""
        settings = compose_settings(self.list_overrides(stage, sort, self.write_net(sort, kinds)))
        try:
            plan, data = self._runner.plan(settings)
            described = preview_plan(plan, settings, data)[-1]
        except BadInput as error:
            if len(kinds) == 1:
                self.cells[stage, kinds[0]] = "refused"
                self.reasons.setdefault(str(error), []).append(f"{stage} of {kinds[0]}")
            return False
        for kind in kinds:
            name = name_layer(kind)
            texts = [text.partition(": ")[2] for layer, text in described if layer.split(".")[0] == name]
            self.cells[stage, kind] = summarize(texts)
        return True

    def _run(self, stage: str, sort: str, kinds: Sequence[str]) -> str:
        """Run a stage on a net of some kinds, and return why it failed; empty if it did not."""
        overrides = self.list_overrides(stage, sort, self.write_net(sort, kinds))
        try:
            self._runner.run(compose_settings(overrides), overrides)
        except LightexpError as error:
            self.failures.append(f"{stage} of {', '.join(kinds)}: {error}")
            return str(error)
        return ""

    def format(self) -> str:
        """Return the guide's text."""
        stages = list(dict.fromkeys(stage for stage, _ in self.cells))
        lines = [INTRODUCTION, f"| Layer | {' | '.join(stages)} |", f"|---|{'---|' * len(stages)}"]
        for kinds in self.kinds.values():
            lines += [f"| {kind} | {' | '.join(self.cells[stage, kind] for stage in stages)} |" for kind in kinds]
        lines.append("\n## Why a stage refuses a layer\n")
        lines += [f"- {'; '.join(cells)}: {reason}" for reason, cells in self.reasons.items()]
        return "\n".join([*lines, NOTES])


def summarize(texts: Sequence[str]) -> str:
    """Return a cell: what the plan says that a stage does to a layer, in a word."""
    if not texts:
        return "yes"
    if all(text.startswith(_FLOAT[0]) for text in texts):
        return "float"
    if all(_FLOAT[1] in text for text in texts):
        return "int8 after training"
    return "left" if all(text.startswith(_NOTHING_TO_DO) for text in texts) else "yes"


INTRODUCTION = """# Layers

What each stage does to each kind of layer, made by `python experiments/layer_support.py` from real runs on tiny nets.
`lightexp run ... --plan` says the same of your own model, layer by layer, before anything is trained.

- **yes**: the stage works on the layer, or on the net around a layer that has no weights.
- **left**: the stage runs and leaves the layer as it is; `--plan` gives the reason.
- **float**: the layer is trained and stored in float32; the layers around it are int8.
- **int8 after training**: the layer is trained in float32 and stored in int8.
- **refused**: the stage refuses the model in one line, before anything is trained.
"""
NOTES = """
## Remarks

- A layer with several kernels has a name for each: `lstm.kernel`, `lstm.recurrent_kernel`, `bi.forward.kernel`.
  Patterns such as `layers: {"lstm*": 0.9}` match them.
- Recurrent layers are trained as they are, and unrolled over the steps of their sequence in the `.tflite`: it takes
  batches of any size, has no state, and each operator is one that quantisers and microcontrollers know; but it grows by
  some 3 KB per step of an LSTM or GRU, and 1 KB of a SimpleRNN. The steps must be fixed, as in `Input((49, 10))`.
- `prune_channels` keeps all channels that a grouped convolution, a recurrent layer, a normalisation over channels or
  another layer reads that could not do without some; `--plan` names that layer. The rest of the model gets narrower.
- SeparableConv layers of a file become a DepthwiseConv `NAME_depthwise` and a Conv `NAME`, which compute the same.
- An Embedding takes whole numbers: `dataset.scaling.range=[0,255]` keeps those that fit into a byte.
- The recurrent kernel of a GRU with `reset_after=False` is not pruned or clustered, as the file holds it in two pieces.
- `distill` trains the same net with new weights against the trained one.
- A `MultiHeadAttention` of a Keras 3 file becomes dense layers `NAME_query`, `NAME_key`, `NAME_value` and
  `NAME_output`, which stages treat like a Dense on a feature map, and products of matrices, whose channels all stay.
- Models with several inputs or outputs are refused.
"""


def main() -> int:
    """Fill the table and write the guide, or print it for some stages; return 1 if a run failed."""
    start_tensorflow(compose_settings(["dataset=digits"]).threads)
    with tempfile.TemporaryDirectory() as folder:
        table = SupportTable(Path(folder))
        for stage in sys.argv[1:] or STAGES:
            table.fill(stage)
            print(f"{stage}: {len(table.failures)} failures so far", flush=True)
            text = table.format().replace(f"{folder}/", "")
            if len(sys.argv) == 1:
                GUIDE.parent.mkdir(exist_ok=True)
                GUIDE.write_text(text, encoding="utf-8")
        if len(sys.argv) > 1:
            print(text)
    print("\n".join(table.failures))
    return 1 if table.failures else 0


if __name__ == "__main__":
    sys.exit(main())
