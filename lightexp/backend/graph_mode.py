"""Build Keras models in a TensorFlow graph, where weights and outputs are described but take no memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def describe_only() -> Iterator[None]:
    """Build models in a graph of their own, and leave Keras' classes as they were.

    Building a layer in a graph makes its class, and all classes it inherits from, subclasses of Keras' layer of
    TensorFlow 1. Models that live outside the graph are instances of the same classes: they could no longer be
    called or saved, if no layer of each such class was built afterwards.
    """
    import tensorflow as tf

    from lightexp.backend.session import import_keras

    base = import_keras().layers.Layer
    bases = {layer_class: layer_class.__bases__ for layer_class in _list_subclasses(base)}
    try:
        with tf.Graph().as_default():
            tf.random.set_seed(0)  # of this graph: without one, deterministic operators refuse a Dropout
            yield
    finally:
        for layer_class, own_bases in bases.items():
            if layer_class.__bases__ != own_bases:
                layer_class.__bases__ = own_bases


def _list_subclasses(base: Any) -> set[Any]:
    """Return the classes that inherit from a class, directly or not."""
    direct = set(base.__subclasses__())
    return direct.union(*map(_list_subclasses, direct))
