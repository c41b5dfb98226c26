"""The version, read by setuptools, CMake and the package."""

__version__ = "0.1.0"
