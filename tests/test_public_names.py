"""What packages say that they offer, they have."""

import importlib
import pkgutil

import pytest

import gapless

PACKAGES = [m.name for m in pkgutil.walk_packages(gapless.__path__, "gapless.") if m.ispkg]


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_is_there(name):
    package = importlib.import_module(name)
    missing = [public for public in getattr(package, "__all__", ()) if not hasattr(package, public)]
    assert missing == []
