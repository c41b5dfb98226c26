from . import evaluation as evaluation
from . import ops as ops
from . import reference as reference
from ._library import build_info as build_info
from ._library import cmake_prefix_path as cmake_prefix_path
from .evaluation.run import evaluate as evaluate
from .models.checkpoint import load_model as load_model
from .nn.loss import SproutLoss as SproutLoss
from .nn.mixup import MixupTarget as MixupTarget
from .nn.mixup import SproutMixup as SproutMixup
from .ops.dirichlet import dirichlet as dirichlet
from .ops.gaussian_mixup import gaussian_mixup as gaussian_mixup
from .ops.generalized_cross_entropy import generalized_cross_entropy as generalized_cross_entropy
from .ops.log_gamma import log_gamma as log_gamma
from .ops.meter_step import meter_step_ as meter_step_
from .ops.pgd_step import pgd_step_ as pgd_step_
from .ops.sample_mixup import sample_mixup as sample_mixup
from .ops.sprout_loss import sprout_loss as sprout_loss
from .random import PhiloxState as PhiloxState

__version__: str
