"""cmru-hw: from a trained BMRU/CMRU network to transistors that ngspice has run.

Importing the package is light; torch, numba and PySpice load with the modules that use them.
"""

__version__ = "0.1.0"
