"""Recurrent units, layers and networks in PyTorch; knows no hardware."""

from .layers import BMRU as BMRU
from .layers import CMRU as CMRU
from .layers import FQBMRU as FQBMRU
from .layers import LRU as LRU
from .layers import AlphaCMRU as AlphaCMRU
from .layers import MinGRU as MinGRU
from .network import Network as Network
from .network import NetworkConfig as NetworkConfig
from .network import load_network as load_network
from .network import save_network as save_network
from .pooling import pool_scores as pool_scores
from .saturating_scan import clipped_scan as clipped_scan
from .scan import linear_scan as linear_scan
