"""A design as a folder that an analogue designer can open: netlist, testbenches, tables, models."""

from cmru_hw.export.folder import export

__all__ = ["export"]
