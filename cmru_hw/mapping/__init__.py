"""From a trained network to a design."""

from cmru_hw.mapping.config import MappingConfig as MappingConfig
from cmru_hw.mapping.network import check_mappable as check_mappable
from cmru_hw.mapping.network import equalize as equalize
from cmru_hw.mapping.network import map_folder as map_folder
from cmru_hw.mapping.network import map_network as map_network
from cmru_hw.mapping.report import MappingReport as MappingReport
from cmru_hw.mapping.units import weight_units as weight_units
