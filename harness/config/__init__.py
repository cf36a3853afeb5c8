"""What an experiment may say: one typed model per block of the YAML file, with every default."""

from harness.config.block import Block as Block
from harness.config.data import Augment as Augment
from harness.config.data import DatasetBlock as DatasetBlock
from harness.config.data import Frames as Frames
from harness.config.data import Normalize as Normalize
from harness.config.data import Store as Store
from harness.config.experiment import Asha as Asha
from harness.config.experiment import Evaluation as Evaluation
from harness.config.experiment import Experiment as Experiment
from harness.config.experiment import MethodBlock as MethodBlock
from harness.config.experiment import NetworkBlock as NetworkBlock
from harness.config.experiment import Range as Range
from harness.config.experiment import Scale as Scale
from harness.config.experiment import Selection as Selection
from harness.config.experiment import Start as Start
from harness.config.experiment import Sweep as Sweep
from harness.config.experiment import Tracking as Tracking
from harness.config.experiment import Train as Train
from harness.config.experiment import schema as schema
from harness.config.smoke import smoke as smoke
