"""What goes wrong with real chips: mismatch, corners, noise, time, faults, and how rare failure is.

Analyses of one lot of chips (`Lot`), on the behavioural model, as tasks of a farm; `verify` runs the most
telling circuits again in ngspice.
"""

from cmru_hw.analysis.robustness.analysis import Analysis as Analysis
from cmru_hw.analysis.robustness.analysis import run_analyses as run_analyses
from cmru_hw.analysis.robustness.lot import Chips as Chips
from cmru_hw.analysis.robustness.lot import Lot as Lot
from cmru_hw.analysis.robustness.lot import chip_accuracies as chip_accuracies
from cmru_hw.analysis.robustness.yields import Robustness as Robustness
from cmru_hw.analysis.robustness.yields import summarize as summarize
