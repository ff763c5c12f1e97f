"""What the tests of layers share: the table ``LAYERS`` of a file, each entry traced once and held to the laws."""

from __future__ import annotations

from functools import cache

import pytest


@pytest.fixture(scope="module")
def topology_of(request, check, function_module):
    """The topology of an entry of the file's table: forward pass, modules, shape or shapes, and the group that it must have."""

    @cache
    def topology_of(name):
        forward, modules, shapes, group = request.module.LAYERS[name]
        shapes = (shapes,) if isinstance(shapes[0], int) else shapes
        return check(function_module(forward, **modules), *shapes, group=group)

    return topology_of
