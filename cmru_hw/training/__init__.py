"""Training networks on tasks, with the errors of the hardware if configured."""

from cmru_hw.training.circuit import Planned as Planned
from cmru_hw.training.config import EarlyStoppingConfig as EarlyStoppingConfig
from cmru_hw.training.config import HardwareNoiseConfig as HardwareNoiseConfig
from cmru_hw.training.config import MarginConfig as MarginConfig
from cmru_hw.training.config import QuantizationConfig as QuantizationConfig
from cmru_hw.training.config import TrainingConfig as TrainingConfig
from cmru_hw.training.evaluation import Evaluation as Evaluation
from cmru_hw.training.evaluation import evaluate as evaluate
from cmru_hw.training.results import TrainingResult as TrainingResult
from cmru_hw.training.results import one_line as one_line
from cmru_hw.training.tasks import Split as Split
from cmru_hw.training.tasks import Task as Task
from cmru_hw.training.tasks import TaskConfig as TaskConfig
from cmru_hw.training.tasks import load_task as load_task
from cmru_hw.training.trainer import train as train
