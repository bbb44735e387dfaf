"""See pyproject.toml."""

from setuptools import setup

setup()
