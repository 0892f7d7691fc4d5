"""Names that an architecture from a file may hold: layers, their parts, activations and operations of Keras."""

from __future__ import annotations

import re


def _parse_names(text: str) -> frozenset[str]:
    """Return the names in a text, which are separated by spaces."""
    return frozenset(text.split())


MODELS = frozenset({"Functional", "Model", "Sequential"})
LAYERS = _parse_names(  # all that the converter supports with an open batch size; recurrent layers are unrolled
    """
    Activation ActivityRegularization Add AlphaDropout Average AveragePooling1D AveragePooling2D
    BatchNormalization Bidirectional Concatenate
    Conv1D Conv2D Conv2DTranspose Cropping1D Cropping2D Dense DepthwiseConv1D DepthwiseConv2D Dot
    Dropout ELU Embedding Flatten GRU GaussianDropout GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D
    GlobalMaxPooling1D GlobalMaxPooling2D InputLayer LSTM LayerNormalization LeakyReLU MaxPooling1D MaxPooling2D
    Maximum Minimum Multiply Normalization PReLU Permute ReLU RepeatVector Rescaling Reshape SeparableConv1D
    SeparableConv2D SimpleRNN Softmax SpatialDropout1D SpatialDropout2D Subtract TFOpLambda ThresholdedReLU
    UnitNormalization UpSampling1D UpSampling2D ZeroPadding1D ZeroPadding2D
    """
)
LAYER_PARTS = _parse_names(
    """
    Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity LecunNormal LecunUniform Ones Orthogonal
    RandomNormal RandomUniform TruncatedNormal VarianceScaling Zeros L1 L1L2 L2 OrthogonalRegularizer MaxNorm
    MinMaxNorm NonNeg RadialConstraint UnitNorm Policy
    """
)
ACTIVATIONS = _parse_names(
    """
    elu exponential gelu hard_sigmoid leaky_relu linear mish relu relu6 selu sigmoid silu softmax softplus softsign
    swish tanh
    """
)
OPERATORS = _parse_names(  # TensorFlow functions between layers that have no side effects
    """
    __operators__.add __operators__.getitem compat.v1.nn.relu6 concat math.add math.multiply math.reduce_max
    math.reduce_mean math.subtract math.truediv nn.bias_add nn.leaky_relu nn.relu nn.relu6 nn.softmax reshape
    linalg.matmul
    """
)
OLD_NAMES = {"BatchNormalizationV1": "BatchNormalization", "BatchNormalizationV2": "BatchNormalization"}
MODULE = re.compile(r"(tf_)?keras([.]\w+)*|tensorflow[.](python[.])?keras([.]\w+)*|builtins")

IDLE_LAYERS = _parse_names(  # RandomCrop is none of them: it crops the centre
    """
    AugMix CutMix MixUp RandAugment RandomBrightness RandomColorDegeneration RandomColorJitter RandomContrast
    RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur RandomGrayscale RandomHue RandomInvert
    RandomPerspective RandomPosterization RandomRotation RandomSaturation RandomSharpness RandomShear
    RandomTranslation RandomZoom
    """
)
"""Layers that augment the data, and return their input when the model is not trained."""

KERAS_3_LAYERS = (LAYERS - {"TFOpLambda", "ThresholdedReLU"}) | _parse_names(
    "Conv1DTranspose EinsumDense GroupNormalization Identity MultiHeadAttention Resizing TimeDistributed"
)
KERAS_3_PARTS = LAYER_PARTS - {"Policy"}
KERAS_3_ACTIVATIONS = ACTIVATIONS | {"hard_silu", "hard_swish", "log_softmax"}
KERAS_3_OPERATIONS = _parse_names(
    """
    Absolute Add Cast Clip Concatenate Divide Elu Exp ExpandDims Gelu GetItem HardSigmoid HardSilu LeakyRelu Log
    LogSoftmax Matmul Max Maximum Mean Min Minimum Multiply Negative Pad Power Relu Relu6 Reshape Rsqrt Selu Sigmoid
    Silu Softmax Softplus Softsign Sqrt Square Squeeze Subtract Sum Tanh Transpose TrueDivide
    """
)
KERAS_3_MARKERS = frozenset({"__ellipsis__", "__keras_tensor__", "__numpy__", "__slice__", "__tensor__"})
"""Classes of values in the arguments of a layer's call."""


def convert_to_snake_case(name: str) -> str:
    """Return a class' name as Keras 3 writes it in paths of weights, such as `global_average_pooling2d`."""
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
