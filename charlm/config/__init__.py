"""The settings of charlm: what the model computes, how it is trained, how text is drawn.

What a run *computes* is saved with it. :class:`ComputeConfig` says *how* it is computed, which may
differ from session to session. ``vocab_size`` is not a setting, as it follows from the text.
"""

from charlm.config.comparison import CompareConfig as CompareConfig
from charlm.config.model import ModelConfig as ModelConfig
from charlm.config.model import option_names as option_names
from charlm.config.run import Counters as Counters
from charlm.config.run import Source as Source
from charlm.config.run import Stage as Stage
from charlm.config.sampling import LinesConfig as LinesConfig
from charlm.config.sampling import SampleConfig as SampleConfig
from charlm.config.training import DECAY_SHARE as DECAY_SHARE
from charlm.config.training import MOST_LOGIT_SCALE as MOST_LOGIT_SCALE
from charlm.config.training import PRECISIONS as PRECISIONS
from charlm.config.training import ComputeConfig as ComputeConfig
from charlm.config.training import TrainConfig as TrainConfig
from charlm.config.training import has_basis as has_basis
